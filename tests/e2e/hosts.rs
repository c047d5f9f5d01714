//! Hosts: known ones however they are written, and unknown ones.

use parkway_tests::{Parkway, Raw, hello_service};

#[tokio::test]
async fn unknown_hosts_are_answered_404_and_known_ones_found_however_they_are_written() {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway
        .at("nobody.default.localhost")
        .get("/")
        .await
        .expect(404);
    parkway.at("[::1]:8080").get("/").await.expect(404);
    for host in [
        "SHOP.Default.localhost",
        "shop.default.localhost:8080",
        "shop.default.localhost.",
    ] {
        parkway.at(host).get("/").await.expect(200);
    }
    let mut absolute = Raw::connect(parkway.external()).await;
    absolute
        .send("GET http://shop.default.localhost/ HTTP/1.1\r\nHost: shop.default.localhost\r\n\r\n")
        .await;
    absolute.answer().await.expect(200);
    parkway.finish().await;
}
