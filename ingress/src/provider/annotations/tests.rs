use super::*;

fn read(annotations: &[(&str, &str)]) -> (Option<RoutePolicy>, Vec<Problem>) {
    let map: BTreeMap<String, String> = { annotations.iter() }
        .map(|(name, value)| (format!("{GROUP}{name}"), (*value).to_owned()))
        .collect();
    policy(&map.into(), &Origin::elsewhere("Ingress", "shop", "cart"))
}

fn good(annotations: &[(&str, &str)]) -> RoutePolicy {
    let (policy, problems) = read(annotations);
    assert_eq!(problems, []);
    policy.unwrap()
}

/// Message and remedy of the one thing that is wrong.
fn bad(name: &str, value: &str) -> (String, String) {
    let (policy, problems) = read(&[(name, value)]);
    assert_eq!(policy, None, "{name}: {value}");
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}");
    };
    assert!(problem.is_error());
    assert_eq!(
        problem.field,
        format!("metadata.annotations[\"{GROUP}{name}\"]")
    );
    assert_eq!(problem.value, value);
    (problem.message.clone(), problem.remedy.clone())
}

#[test]
fn annotations_of_others_ask_for_nothing() {
    let map = BTreeMap::from([("example.com/retry-on".to_owned(), "x".to_owned())]);
    let origin = Origin::elsewhere("Ingress", "shop", "cart");
    assert_eq!(policy(&map.into(), &origin), (None, Vec::new()));
}

#[test]
fn each_annotation_is_read_into_the_policy() {
    let policy = good(&[
        ("retry-on", "503, 502,unavailable"),
        ("retry-attempts", "5"),
        ("retry-methods", "POST,PATCH"),
        ("retry-backoff", "10ms"),
        ("retry-backoff-max", "2s"),
        ("timeout-try", "1500ms"),
        ("timeout-parked", "20s"),
        ("timeout-connect", "200ms"),
        ("timeout-first-byte", "3s"),
        ("timeout-idle", "1h"),
        ("timeout-total", "off"),
        ("no-wake-paths", "/healthz, /robots.txt"),
        ("no-wake-agents", "GoogleBot"),
        ("waiting-page", "1500ms"),
        ("waiting-page-refresh", "5s"),
        ("waiting-page-template", "<p>{{service}}</p>"),
    ]);
    let page = policy.waiting_page.unwrap();
    assert_eq!(page.patience, Duration::from_millis(1500));
    assert_eq!(page.refresh, Duration::from_secs(5));
    assert_eq!(page.template, Template::parse("<p>{{service}}</p>").ok());
    let retry = policy.retry.unwrap();
    let statuses = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
    assert_eq!(*retry.statuses, statuses);
    assert_eq!(retry.grpc_codes, 1 << 14);
    assert_eq!(retry.attempts, 5);
    assert_eq!(*retry.methods, [Method::POST, Method::PATCH]);
    assert_eq!(retry.backoff, Duration::from_millis(10));
    assert_eq!(retry.longest_backoff, Duration::from_secs(2));
    assert_eq!(retry.try_timeout, Some(Duration::from_millis(1500)));
    let timeouts = policy.timeouts;
    assert_eq!(timeouts.parked, Some(Duration::from_secs(20)));
    assert_eq!(timeouts.connect, Some(Duration::from_millis(200)));
    assert_eq!(timeouts.first_byte, Some(Duration::from_secs(3)));
    assert_eq!(timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(timeouts.total, Some(NEVER));
    assert_eq!(
        *policy.no_wake.paths,
        ["/healthz".into(), "/robots.txt".into()]
    );
    assert_eq!(*policy.no_wake.agents, ["googlebot".into()]);
}

#[test]
fn a_class_of_statuses_is_all_of_them() {
    let retry = good(&[("retry-on", "5xx,429")]).retry.unwrap();
    assert_eq!(retry.statuses.len(), 101);
    assert!(retry.statuses.is_sorted());
}

#[test]
fn an_unknown_annotation_is_refused_with_the_one_that_was_meant() {
    let (message, remedy) = bad("retry_attempt", "3");
    assert_eq!(message, "there is no annotation parkway.dev/retry_attempt");
    assert_eq!(remedy, "did you mean parkway.dev/retry-attempts?");
    let (_, remedy) = bad("colour", "blue");
    assert!(remedy.starts_with("known are retry-on, "), "{remedy}");
}

#[test]
fn values_that_cannot_be_meant_are_refused_with_what_to_write() {
    for (name, value, message, remedy) in [
        (
            "retry-on",
            "unavailible",
            "\"unavailible\" is neither",
            "did you mean unavailable?",
        ),
        (
            "retry-on",
            "200",
            "\"200\" is neither",
            "write statuses from 400",
        ),
        (
            "retry-on",
            "503,",
            "a part of the list is empty",
            "separate",
        ),
        (
            "retry-attempts",
            "1",
            "this must be a whole number from 2 to 10",
            "the first attempt",
        ),
        (
            "retry-attempts",
            "many",
            "this must be a whole number",
            "the first attempt",
        ),
        (
            "retry-methods",
            "post",
            "\"post\" is not a method",
            "write POST",
        ),
        (
            "retry-backoff",
            "5",
            "this is not a duration",
            "write one such as",
        ),
        (
            "retry-backoff-max",
            "2m",
            "this must be from 1ms to 60s",
            "write one",
        ),
        (
            "timeout-connect",
            "10s",
            "this must be from 1ms to 5s",
            "write one",
        ),
        ("timeout-try", "off", "this is not a duration", "write one"),
        (
            "timeout-total",
            "0",
            "this must be from 1ms to 86400s",
            "off is no timeout",
        ),
        (
            "no-wake-paths",
            "healthz",
            "no request path begins",
            "begin each with",
        ),
        (
            "no-wake-paths",
            "/",
            "every request path",
            "name longer prefixes",
        ),
        (
            "no-wake-agents",
            "",
            "a part of the list is empty",
            "separate",
        ),
        (
            "no-wake-agents",
            &"x".repeat(257),
            "one of these is longer",
            "its beginning",
        ),
    ] {
        let (said, help) = bad_shortened(name, value);
        assert!(said.starts_with(message), "{name}: {said}");
        assert!(help.contains(remedy), "{name}: {help}");
    }
}

/// As [`bad`], where the value may be too long to be shown.
fn bad_shortened(name: &str, value: &str) -> (String, String) {
    if value.len() < 80 {
        return bad(name, value);
    }
    let (_, problems) = read(&[(name, value)]);
    (problems[0].message.clone(), problems[0].remedy.clone())
}

#[test]
fn what_is_wrong_does_not_take_the_rest_with_it() {
    let (policy, problems) = read(&[("retry-on", "503"), ("timeout-idle", "soon")]);
    assert_eq!(problems.len(), 1);
    assert_eq!(policy.unwrap().timeouts.idle, None);
}

#[test]
fn retries_without_a_cause_are_warned_about() {
    let (policy, problems) = read(&[("retry-attempts", "3")]);
    assert_eq!(policy, None);
    assert_eq!(problems[0].message, "nothing says when to retry");
    assert!(!problems[0].is_error());
}

#[test]
fn the_first_pause_is_not_longer_than_the_longest() {
    let (_, problems) = read(&[("retry-on", "503"), ("retry-backoff", "2s")]);
    assert_eq!(problems[0].remedy, "raise parkway.dev/retry-backoff-max");
    assert!(problems[0].is_error());
}
