//! What is read, and what is refused.

use proptest::prelude::*;

use super::*;

fn one(text: &str) -> Node {
    let (documents, problems) = read("a.yaml", text.as_bytes());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(documents.len(), 1);
    documents[0].root.clone()
}

fn refusal(text: &str) -> String {
    let (_, problems) = read("a.yaml", text.as_bytes());
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn scalars_are_those_of_the_core_schema() {
    let node = one(
        "[~, null, true, yes, 5, -5, 0x10, 0o17, 007, 1.5, 1e3, .inf, 1.2.3, '5', \"a\", !!str 5, 99999999999999999999]",
    );
    let Value::List(items) = node.value else {
        panic!("a list")
    };
    let string = |text: &str| Value::String(text.to_owned());
    let number = |text: &str| Value::Number(text.to_owned());
    let values: Vec<Value> = items.into_iter().map(|item| item.value).collect();
    let expected = [
        Value::Null,
        Value::Null,
        Value::Bool(true),
        string("yes"),
        Value::Int(5),
        Value::Int(-5),
        Value::Int(16),
        Value::Int(15),
        string("007"),
        number("1.5"),
        number("1e3"),
        number(".inf"),
        string("1.2.3"),
        string("5"),
        string("a"),
        string("5"),
        number("99999999999999999999"),
    ];
    assert_eq!(values, expected);
}

#[test]
fn json_is_read_like_yaml() {
    let node = one("{\"a\": [1, \"b\", null], \"c\": {\"d\": true}}\n");
    assert_eq!(node.to_string(), "{a: [1, \"b\", null], c: {d: true}}");
}

#[test]
fn json_may_be_indented_with_tabs() {
    let node =
        one("{\n\t\"a\": [\n\t\t1,\n\t\t2\n\t],\n\t\"b\":\t{\r\n\t\t\"c\": \"\\u00e4\\/\"}\n}\n");
    assert_eq!(node.to_string(), "{a: [1, 2], b: {c: \"ä/\"}}");
}

#[test]
fn every_key_and_value_knows_its_place() {
    let (documents, _) = read(
        "a.yaml",
        "# one\n---\na: 1\n---\nspec:\n  list:\n  - x: 1\n  - x.y: äö\n".as_bytes(),
    );
    let document = &documents[1];
    assert_eq!(document.number, 2);
    let place = |path: &str| {
        let (at, node) = document.find(path);
        (at.line, at.column, node.map(ToString::to_string))
    };
    assert_eq!(place("spec.list[0].x"), (7, 5, Some("1".to_owned())));
    assert_eq!(
        place("spec.list[1][\"x.y\"]"),
        (8, 5, Some("\"äö\"".to_owned()))
    );
    assert_eq!(
        place("spec.list[1].nothing"),
        (8, 5, None),
        "the nearest that is there"
    );
    assert_eq!(place("spec.list[9]"), (6, 3, None));
    assert_eq!(
        place(""),
        (
            5,
            1,
            Some("{spec: {list: [{x: 1}, {x.y: \"äö\"}]}}".to_owned())
        )
    );
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    let node = one("base: &b {x: 1, y: 2}\nall: {<<: *b, y: 3}\nsame: *b\n");
    assert_eq!(
        node.to_string(),
        "{base: {x: 1, y: 2}, all: {y: 3, x: 1}, same: {x: 1, y: 2}}"
    );
}

#[test]
fn empty_documents_are_counted_and_left_out() {
    let (documents, problems) = read("a.yaml", b"---\n# nothing\n---\na: 1\n---\n");
    assert!(problems.is_empty());
    let numbers: Vec<u32> = documents.iter().map(|document| document.number).collect();
    assert_eq!(numbers, [2]);
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    assert_eq!(
        refusal("spec:\n  a: 1\n  b: 2\n  a: 3\n"),
        "a.yaml:4:3: error: the key \"a\" stands here twice\n  help: it is already in line 2: keep one of them"
    );
}

#[test]
fn a_tab_in_the_indentation_is_named_as_such() {
    let refusal = refusal("spec:\n  a:\n\tb: 1\n");
    assert!(refusal.starts_with("a.yaml:3:"), "{refusal}");
    assert!(
        refusal.ends_with("help: the line is indented with a tab: use spaces"),
        "{refusal}"
    );
}

#[test]
fn a_mistake_names_document_line_and_text() {
    let refusal = refusal("a: 1\n---\nb: [1, 2\nc: 3\n");
    assert!(
        refusal.contains("(document 2): error: this is not YAML"),
        "{refusal}"
    );
}

#[test]
fn documents_before_a_mistake_are_kept() {
    let (documents, problems) = read("a.yaml", b"a: 1\n---\nb: ]\n");
    assert_eq!((documents.len(), problems.len()), (1, 1));
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_line() {
    let (_, problems) = read("a.yaml", b"a: 1\nb: \xff\n");
    assert_eq!(
        problems[0].to_string(),
        "a.yaml:2:4: error: the file is not UTF-8 text\n  help: save it as UTF-8"
    );
}

#[test]
fn an_alias_bomb_is_refused_before_it_is_built() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let below = level - 1;
        bomb += &format!(
            "a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n"
        );
    }
    let refusal = refusal(&bomb);
    assert!(
        refusal.contains("more than 200000 values, aliases expanded"),
        "{refusal}"
    );
}

#[test]
fn an_alias_within_what_it_names_is_refused() {
    let refusal = refusal("a: &a [1, *a]\n");
    assert!(
        refusal.contains("the alias stands inside what it names"),
        "{refusal}"
    );
}

#[test]
fn nesting_is_bounded() {
    let deep = format!(
        "{}x{}",
        "[".repeat(MAX_DEPTH + 1),
        "]".repeat(MAX_DEPTH + 1)
    );
    assert!(
        refusal(&deep).contains("nested more than 64 deep"),
        "{deep}"
    );
    assert!(refusal(&"- ".repeat(10_000)).contains("nested more than 64 deep"));
    assert!(
        refusal(&"[".repeat(1_000_000)).contains("error"),
        "the parser has a bound of its own"
    );
    let allowed = format!("{}x{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert!(matches!(one(&allowed).value, Value::List(_)));
}

#[test]
fn a_document_is_bounded() {
    let text = format!("a: 1\n---\nb: \"{}\"\n", "x".repeat(MAX_DOCUMENT_CHARS + 1));
    let refusal = refusal(&text);
    assert!(
        refusal.contains("(document 2): error: the document is longer than 3145728 characters"),
        "{refusal}"
    );
}

#[test]
fn keys_that_are_no_strings_are_refused() {
    assert!(refusal("{[1, 2]: 3}\n").contains("a key must be a string"));
    assert!(refusal("? {a: 1}\n: 2\n").contains("a key must be a string"));
}

#[test]
fn tags_of_ones_own_are_refused() {
    assert!(refusal("a: !secret x\n").contains("the tag !secret means nothing here"));
}

/// Pieces that are likely to meet in odd ways.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        ": ",
        ":",
        "- ",
        "\n",
        "  ",
        "\t",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "&a ",
        "*a",
        "|",
        ">",
        "|+\n",
        "? ",
        "!",
        "!!str ",
        "---\n",
        "...\n",
        "#",
        "%YAML 1.2\n",
        "<<: ",
        "\\",
        "\\u",
        "\u{feff}",
        "ä",
        "\0",
        "~",
        "1",
        "-",
        "\r\n",
    ];
    prop_oneof![
        9 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #[test]
    fn a_file_in_pieces_says_what_it_says_as_a_whole(pieces in proptest::collection::vec(piece(), 0..40)) {
        let text = pieces.concat();
        let file: Arc<str> = "a.yaml".into();
        let unmarked = utf8(&file, text.as_bytes()).unwrap();
        let whole = Source::new(&Text::of(&file, unmarked), Before::default(), unmarked);
        let whole = read_source(&whole, unmarked);
        // The parser takes a `---` into a block scalar that is the whole document, against the standard; no object is one.
        if whole.documents.iter().any(|document| matches!(document.root.value, Value::String(_))) {
            return Ok(());
        }
        let (documents, problems) = read("a.yaml", text.as_bytes());
        prop_assert_eq!(whole.mistake.is_some(), !problems.is_empty(), "{:?} {:?}", whole.mistake, problems);
        let said = |documents: &[Arc<Document>]| -> Vec<_> {
            documents.iter().map(|document| (document.number, document.root.at, document.root.value.clone())).collect()
        };
        prop_assert_eq!(said(&whole.documents), said(&documents));
    }

    #[test]
    fn no_text_makes_the_reader_panic(pieces in proptest::collection::vec(piece(), 0..60)) {
        let text = pieces.concat();
        let (documents, problems) = read("a.yaml", text.as_bytes());
        for problem in &problems {
            prop_assert!(!problem.to_string().is_empty());
        }
        for document in &documents {
            prop_assert!(document.number > 0);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_, problems) = read("a.yaml", &bytes);
        prop_assert!(problems.len() <= 1);
    }
}
