//! Tokens, strings, variables, comments, stray characters.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn lex(text: &[u8]) -> (Vec<(Kind, String)>, Vec<Diagnostic>) {
    let sources = SourceMap::from_text("t.cfg", text);
    let mut lexer = Lexer::new(&sources);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        if token.kind == Kind::Eof {
            return (tokens, lexer.diagnostics);
        }
        tokens.push((token.kind, String::from_utf8_lossy(lexer.slice(token.start, token.end)).into_owned()));
    }
}

fn texts(text: &str) -> Vec<String> {
    let (tokens, found) = lex(text.as_bytes());
    assert_eq!(found, [], "{text}");
    tokens.into_iter().map(|(_, text)| text).collect()
}

fn kinds(text: &str) -> Vec<Kind> {
    lex(text.as_bytes()).0.into_iter().map(|(kind, _)| kind).collect()
}

#[test]
fn numbers_are_decimal_octal_or_hex_and_wrap() {
    let numbers = "0 7 10 0666 0x1F 2147483648 99999999999 0xFFFFFFFF";
    let values: Vec<i32> =
        kinds(numbers).into_iter().map(|kind| if let Kind::Number(value) = kind { value } else { panic!() }).collect();
    assert_eq!(values, [0, 7, 10, 438, 31, i32::MIN, 1_215_752_191, -1]);
    assert_eq!(lex(b"089").1.len(), 1, "8 and 9 are no octal digits");
}

#[test]
fn boolean_words_are_numbers_and_case_counts() {
    assert_eq!(kinds("yes true on enable no false off disable"), [[Kind::Number(1); 4], [Kind::Number(0); 4]].concat());
    assert_eq!(
        kinds("YES True NULL null and or not"),
        [Kind::Word, Kind::Word, Kind::Null, Kind::Null, Kind::And, Kind::Or, Kind::Not]
    );
}

#[test]
fn comments_nest_and_lines_join() {
    assert_eq!(texts("a # b\nc /* d /* e */ f */ g \\\n h \\\r\n i"), ["a", "c", "g", "h", "i"]);
    let (tokens, found) = lex(b"a /* b /* c */ d");
    assert_eq!((tokens.len(), found.len(), found[0].code), (1, 1, "open-comment"));
}

#[test]
fn stray_characters_are_skipped_with_one_warning_for_a_run() {
    let (tokens, found) = lex("_abc @ ? \u{e4}\u{f6} x".as_bytes());
    assert_eq!(tokens.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["abc", "x"]);
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|warning| warning.severity == Severity::Warning));
    assert_eq!(kinds("_if"), [Kind::Word]);
    let (_, found) = lex(&b"@ ".repeat(100_000));
    assert_eq!(found.len(), STRAY_WARNINGS_MAX);
}

#[test]
fn variables_end_where_the_specification_says() {
    for (text, tokens) in [
        ("$var(a)+$var(b)", vec!["$var(a)", "+", "$var(b)"]),
        ("$ru=~\"x\"", vec!["$ru", "=~", "\"x\""]),
        ("$rU==NULL", vec!["$rU", "==", "NULL"]),
        ("[$rc]", vec!["[", "$rc]"]),
        ("[ $rc ]", vec!["[", "$rc", "]"]),
        ("[$var(x)]", vec!["[", "$var(x)", "]"]),
        ("$ru{uri.user}=1", vec!["$ru{uri.user}", "=", "1"]),
        ("$(avp(m){s.select,0,:});", vec!["$(avp(m){s.select,0,:})", ";"]),
        ("$(avp(m){s.select,1,@}) ", vec!["$(avp(m){s.select,1,@})"]),
        ("$avp(x y)=1", vec!["$avp(x y)", "=", "1"]),
        ("$avp(a)[1]", vec!["$avp(a)", "[", "1", "]"]),
        ("f($ru,$rd)", vec!["f", "(", "$ru", ",", "$rd", ")"]),
        ("$$ = 1", vec!["$$", "=", "1"]),
        ("$hdr(X-Y);$challenge.algorithm;", vec!["$hdr(X-Y)", ";", "$challenge.algorithm", ";"]),
        ("$(hdr($var(h))[$var(i)]{s.len})", vec!["$(hdr($var(h))[$var(i)]{s.len})"]),
    ] {
        assert_eq!(texts(text), tokens, "{text}");
    }
    let (tokens, found) = lex(b"$(ru{s.len} ;\nnext");
    assert_eq!((tokens.len(), found.len()), (2, 1), "an open variable ends with its line");
}

#[test]
fn operators_take_the_longest_form() {
    assert_eq!(texts("a:=b+=c-=d*=e/=f%=g&=h|=i^=j").len(), 19);
    assert_eq!(
        texts("<<=>>=!=!~!<=>=&&||&|"),
        ["<<", "=", ">>", "=", "!=", "!~", "!", "<=", ">=", "&&", "||", "&", "|"]
    );
}

#[test]
fn escapes_follow_the_quotes() {
    let cases: [(&str, &[u8]); 14] = [
        (r#""a\n\r\t\a\"\\z""#, b"a\n\r\t\x07\"\\z"),
        (r#""\x41\x4g\xzz""#, b"A\x04g\\xzz"),
        (r#""\101\12\1\8""#, b"A\n\\1\\8"),
        (r#""\+\.\d""#, b"\\+\\.\\d"),
        ("\"a\\\nb\\\r\nc\"", b"abc"),
        ("\"a\nb\"", b"a\nb"),
        (r"'a\n\'", b"a\\n\\"),
        (r#"'say "hi"'"#, b"say \"hi\""),
        (r#""it's""#, b"it's"),
        (r#""""#, b""),
        ("''", b""),
        (r#""^\+[1-9][0-9]+$""#, b"^\\+[1-9][0-9]+$"),
        (r#""\\1""#, b"\\1"),
        (r#""\377\400""#, b"\xff\x00"),
    ];
    for (literal, bytes) in cases {
        let (tokens, found) = lex(literal.as_bytes());
        assert_eq!((tokens.len(), tokens[0].0, found.len()), (1, Kind::Text, 0), "{literal}");
        assert_eq!(unescape(literal.as_bytes()), bytes, "{literal}");
    }
}

#[test]
fn an_open_string_ends_with_its_line_and_the_rest_is_read() {
    let (tokens, found) = lex(b"x = \"abc\ny = 1\n");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, "open-string");
    assert_eq!(tokens.len(), 6);
    let (tokens, found) = lex(b"modparam(\"a\", \"b, 1)\nmodparam(\"c\", \"d\", 2)\n");
    assert_eq!(found.len(), 1, "a line that begins a statement of the top level ends the search");
    assert_eq!(tokens.iter().filter(|(_, text)| text == "modparam").count(), 2);
}

#[test]
fn ten_megabytes_of_quotes_parentheses_or_comments_take_linear_time() {
    for piece in ["\"\\\"", "$(", "/*", "*/", "\\", "'\n", "$(\n", "\"\n route[", "\"\\\"\nroute[x]{\n"] {
        let text = piece.repeat(10_000_000 / piece.len());
        let sources = SourceMap::from_text("t.cfg", text);
        let start = std::time::Instant::now();
        let (_, found) = crate::parser::parse(&sources);
        assert!(!found.is_empty(), "{piece:?}");
        assert!(start.elapsed().as_secs() < 30, "{piece:?} took {:?}", start.elapsed());
    }
}
