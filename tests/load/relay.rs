//! The bare relay: each client's bytes go to the endpoint and back. No proxy can do less.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// Bytes carried at once, each way: enough for one call to take what a large body has ready.
const BUFFER: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Relay {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Relay) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(options))
}

async fn serve(options: &Relay) -> Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    let to = options.to;
    loop {
        let (client, _address) = listener.accept().await?;
        tokio::spawn(async move {
            // What breaks a connection is seen at both of its ends.
            relay(client, to).await.ok();
        });
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr) -> Result<()> {
    let mut endpoint = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    endpoint.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await?;
    Ok(())
}
