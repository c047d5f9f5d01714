use std::rc::Rc;

use http::Request;
use parkway_activator::revision::{RevisionId, RevisionSpec};

use super::*;
use crate::routing::rules::Target;

/// Knative's default (knative/serving `config/core/configmaps/observability.yaml`).
const DEFAULT: &str = r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", "requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, "responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", "remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", "referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", "protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}"#;

fn destination() -> Rc<Destination> {
    let spec = Arc::new(RevisionSpec {
        service: "cart".into(),
        configuration: "cart-config".into(),
        ..RevisionSpec::default()
    });
    let id = RevisionId::new("shop", "cart-00001");
    Rc::new(Destination {
        target: Target::Revision {
            id: id.clone(),
            spec: Arc::clone(&spec),
        },
        id,
        spec,
        stats: None,
    })
}

fn head() -> Parts {
    let request = Request::post("/buy?item=%221%22&a=b")
        .header("host", "cart.example:8080")
        .header("content-length", "5")
        .header("user-agent", "say \"hi\" & 'go' <a=b>\\")
        .header("x-id", "one")
        .header("x-id", "two");
    request.body(()).unwrap().into_parts().0
}

/// What a template makes of one request, without the end of the line.
fn line(template: &str) -> String {
    let (lines, writer) = LogLines::new();
    let (publisher, log) = RequestLogPublisher::new(lines);
    publisher.publish(Some(Template::parse(template).unwrap()));
    let remote = "192.0.2.7:4711".parse().unwrap();
    let pending = log.begin(&head(), remote, None).unwrap();
    let took = Duration::from_micros(452_249);
    pending.end(&destination(), Some(StatusCode::OK), 43, took);
    drop((publisher, log));
    let mut line = Vec::new();
    writer.run(&mut line).unwrap();
    let line = String::from_utf8(line).unwrap();
    line.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn knatives_default_template_makes_one_line_of_json() {
    let line = line(DEFAULT);
    // A single quote is escaped as JavaScript has it, which JSON does not know: that is Knative's own template.
    let parsed: serde_json::Value = serde_json::from_str(&line.replace("\\'", "'")).unwrap();
    let expected = serde_json::json!({
        "httpRequest": {
            "requestMethod": "POST",
            "requestUrl": "/buy?item=%221%22&a=b",
            "requestSize": "5",
            "status": 200,
            "responseSize": "43",
            "userAgent": "say \"hi\" & 'go' <a=b>\\",
            "remoteIp": "192.0.2.7:4711",
            "serverIp": "",
            "referer": "",
            "latency": "0.452249s",
            "protocol": "HTTP/1.1",
        },
        "traceId": "",
    });
    assert_eq!(parsed, expected);
}

#[test]
fn every_documented_field_has_its_value() {
    for (template, expected) in [
        ("{{.Request.Host}}", "cart.example:8080"),
        ("{{.Request.URL}}", "/buy?item=%221%22&a=b"),
        ("{{.Request.URL.Path}}", "/buy"),
        ("{{.Request.ProtoMajor}}.{{.Request.ProtoMinor}}", "1.1"),
        ("TLS: {{.Request.TLS}}", "TLS: <nil>"),
        (
            "{{.Revision.Namespace}}/{{.Revision.Name}} {{.Revision.Service}} {{.Revision.Configuration}}",
            "shop/cart-00001 cart cart-config",
        ),
        ("<{{.Revision.PodName}}{{.Revision.PodIP}}>", "<>"),
        ("{{.Request.Header.Get \"X-Id\"}}", "one"),
        ("{{.Request.Header.Get \"X-None\"}}", ""),
        ("{{index .Request.Header \"X-Id\"}}", "[one two]"),
        ("{{index .Request.Header `X-Id` 0}}", "one"),
    ] {
        assert_eq!(line(template), expected, "{template}");
    }
}

#[test]
fn functions_stand_before_a_value_or_behind_it() {
    let agent = r#""say \"hi\" & 'go' <a=b>\\""#;
    let js = r#"say \"hi\" \u0026 \'go\' \u003Ca\u003Db\u003E\\"#;
    for (template, expected) in [
        ("{{js .Request.UserAgent}}", js),
        ("{{.Request.UserAgent | js}}", js),
        ("{{ js (.Request.Header.Get \"User-Agent\") }}", js),
        ("{{printf \"%q\" .Request.UserAgent}}", agent),
        ("{{.Request.UserAgent|printf \"%q\"}}", agent),
        ("{{printf \"%s\" .Request.Method | html}}", "POST"),
        (
            "{{html .Request.UserAgent}}",
            "say &#34;hi&#34; &amp; &#39;go&#39; &lt;a=b&gt;\\",
        ),
        (
            "{{urlquery .Request.UserAgent}}",
            "say+%22hi%22+%26+%27go%27+%3Ca%3Db%3E%5C",
        ),
        ("{{\"a b\" | urlquery | html}}", "a+b"),
        ("{{js .Response.Code}}", "200"),
    ] {
        assert_eq!(line(template), expected, "{template}");
    }
}

#[test]
fn comments_are_skipped_and_space_is_trimmed_where_asked() {
    assert_eq!(
        line("a  {{- /* b */ -}}  c {{.Request.Method -}} \t d"),
        "ac POSTd"
    );
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    for (template, at) in [
        ("", 0),
        ("{{.Request.Body}}", 2),
        ("ab{{if .Request.TLS}}x{{end}}", 4),
        ("{{range .Request.Header}}{{end}}", 2),
        ("{{.Request.Method", 17),
        ("{{.Request.Method}", 17),
        ("{{js}}", 4),
        ("{{.Request.Method | upper}}", 20),
        ("{{printf \"%d\" .Response.Code}}", 9),
        ("{{.Request.Header.Get \"\"}}", 22),
        ("{{.Request.Header.Get \"x}}", 23),
        ("{{index .Request.Form \"x\"}}", 8),
        ("{{(.Request.Method}}", 18),
        ("{{/* a }}", 4),
        ("{{$x := 1}}", 2),
        ("{{}}", 2),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert_eq!(error.at, at, "{template}: {error}");
    }
    let deep = format!(
        "{{{{{}.TraceID{}}}}}",
        "(".repeat(10_000),
        ")".repeat(10_000)
    );
    assert!(Template::parse(&deep).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange_to_be_read_or_refused(
        tokens in proptest::collection::vec(
            proptest::sample::select(vec![
                "{{", "}}", "{{- ", " -}}", "{{/*", "*/", "(", ")", "|", "\"", "`", "\\", " ", "\n", "é", "js", "printf",
                "index", "0", ".", "$", ".Request.Method", ".Request.Header", ".Request.Header.Get", "\"%q\"", "\"x\"",
            ]),
            0..12,
        ),
    ) {
        let text = tokens.concat();
        match Template::parse(&text) {
            Ok(_) => {}
            Err(error) => proptest::prop_assert!(text.is_char_boundary(error.at), "{error}"),
        }
    }
}

#[test]
fn numbers_look_as_go_prints_them() {
    for (seconds, expected) in [
        (0.0, "0"),
        (2.0, "2"),
        (0.000_5, "0.0005"),
        (0.000_1, "0.0001"),
        (0.000_050_788, "5.0788e-05"),
        (1e-9, "1e-09"),
        (12.25, "12.25"),
    ] {
        assert_eq!(template::float(seconds), expected);
    }
}

#[test]
fn a_log_that_is_off_begins_no_line() {
    let remote = "192.0.2.7:4711".parse().unwrap();
    assert!(RequestLog::default().begin(&head(), remote, None).is_none());
    let (lines, writer) = LogLines::new();
    let (publisher, log) = RequestLogPublisher::new(lines);
    assert!(log.begin(&head(), remote, None).is_none());
    publisher.publish(Some(Template::parse("{{.Request.Method}}\n").unwrap()));
    let pending = log.begin(&head(), remote, None).unwrap();
    pending.end(&destination(), None, 0, Duration::ZERO);

    publisher.publish(None);
    assert!(log.begin(&head(), remote, None).is_none());
    drop((publisher, log));
    let mut out = Vec::new();
    writer.run(&mut out).unwrap();
    assert_eq!(out, b"POST\n");
}
