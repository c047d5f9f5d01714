//! A file cut into its documents.

use memchr::memmem;

/// Cuts a file into documents, so that those which did not change need not be read again.
///
/// A line that begins with `---` begins a document wherever it stands (YAML 1.2, section 9.1.2 and `c-forbidden`), even
/// within quotes and block scalars, where it ends what was open. A file that uses more of YAML's stream (directives, `...`, line
/// ends of old), or keeps the ends of texts (`|+`), stays whole.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let is_plain_stream = !["%", "..."].iter().any(|mark| text.starts_with(mark))
        && ![
            "\n%", "\n...", "\r---", "\0", "|+", ">+", "\u{2028}", "\u{2029}", "\u{85}",
        ]
        .iter()
        .any(|mark| memmem::find(text.as_bytes(), mark.as_bytes()).is_some());
    if !is_plain_stream {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut from = 0;
    let marker = memmem::Finder::new("\n---");
    while let Some(at) = { rest.as_bytes().get(from..) }.and_then(|text| marker.find(text)) {
        let at = from + at + 1;
        let is_marker = matches!(
            rest.as_bytes().get(at + 3),
            None | Some(b' ' | b'\t' | b'\r' | b'\n')
        );
        match rest.split_at_checked(at) {
            Some((piece, next)) if is_marker => {
                pieces.push(piece);
                rest = next;
                from = 0;
            }
            _ => from = at,
        }
    }
    pieces.push(rest);
    // The parser reads an empty block scalar at the end of its input otherwise than before a `---`.
    let ends_in_block = |piece: &&str| {
        let last = piece.trim_end().rsplit('\n').next();
        last.is_some_and(|line| line.contains(['|', '>']))
    };
    if pieces.iter().any(ends_in_block) {
        return vec![text];
    }
    pieces
}
