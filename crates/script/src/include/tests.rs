//! Includes: order of the text, search path, loops, limits.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;

use super::*;

fn load_all(files: &[(&str, &str)]) -> (SourceMap, Vec<Diagnostic>) {
    let table: HashMap<PathBuf, Vec<u8>> =
        files.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec())).collect();
    let reader = |path: &Path| table.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
    load(Path::new(files[0].0), &reader)
}

#[test]
fn an_included_text_stands_in_place_of_its_line_and_keeps_its_position() {
    let (map, found) = load_all(&[
        ("/etc/main.cfg", "a=1\n  include_file \"sub.cfg\" thrown away\nb=2"),
        ("/etc/sub.cfg", "x=1\nimport_file '/abs.cfg'\ny=2"),
        ("/abs.cfg", "z=3\n"),
    ]);
    assert_eq!(found, []);
    assert_eq!(String::from_utf8_lossy(map.flat()), "a=1\nx=1\nz=3\ny=2\nb=2\n");
    let at = |text: &str| {
        let start = memchr::memmem::find(map.flat(), text.as_bytes()).unwrap() as u32;
        let location = map.location(map.span(start, start + 3));
        (location.name.to_owned(), location.line)
    };
    assert_eq!(at("z=3"), ("/abs.cfg".to_owned(), 1));
    assert_eq!(at("y=2"), ("/etc/sub.cfg".to_owned(), 3));
    assert_eq!(at("b=2"), ("/etc/main.cfg".to_owned(), 3));
}

#[test]
fn the_working_directory_comes_before_the_directory_of_the_including_file() {
    let (map, _) = load_all(&[
        ("/etc/main.cfg", "include_file \"sub.cfg\"\n"),
        ("sub.cfg", "here=1\n"),
        ("/etc/sub.cfg", "there=1\n"),
    ]);
    assert_eq!(map.flat(), b"here=1\n");
}

#[test]
fn a_loop_is_one_error_with_the_way_it_goes() {
    let (map, found) =
        load_all(&[("/m.cfg", "include_file \"/a.cfg\"\nm=1\n"), ("/a.cfg", "include_file \"/m.cfg\"\na=1\n")]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, "include-loop");
    assert_eq!(found[0].notes, ["/m.cfg -> /a.cfg -> /m.cfg"]);
    assert_eq!(map.name(found[0].span.file), "/a.cfg");
    assert_eq!(map.flat(), b"a=1\nm=1\n");
}

#[test]
fn missing_files_are_all_reported_where_they_are_wanted() {
    let (map, found) = load_all(&[("/m.cfg", "include_file \"/a.cfg\"\n\n import_file \"/b.cfg\"\n")]);
    let lines: Vec<u32> = found.iter().map(|error| map.location(error.span).line).collect();
    assert_eq!(lines, [1, 3]);
    // An import may be missing: 2.4 goes on without it.
    let codes: Vec<(&str, bool)> = found.iter().map(|finding| (finding.code, finding.is_error())).collect();
    assert_eq!(codes, [("missing-include", true), ("missing-import", false)]);
}

#[test]
fn include_words_inside_comments_and_strings_are_text() {
    let text = "/* old:\ninclude_file \"/none.cfg\"\n*/\n# include_file \"/none.cfg\"\nx=\"\ninclude_file '/none.cfg'\n\"\ninclude_files=3\n";
    let (map, found) = load_all(&[("/m.cfg", text)]);
    assert_eq!(found, []);
    assert_eq!(String::from_utf8_lossy(map.flat()), text);
}

#[test]
fn a_variable_with_a_quote_or_hash_in_it_hides_no_include() {
    let (_, found) = load_all(&[(
        "/m.cfg",
        "$x = $(ru{s.select,0,#}) + $(ru{s.select,1,\"}); # it's\ninclude_file \"/none.cfg\"\n",
    )]);
    assert_eq!(found.len(), 1);
}

#[test]
fn files_that_include_each_other_many_times_end() {
    let names: Vec<String> = (0..40).map(|index| format!("/f{index}.cfg")).collect();
    let texts: Vec<String> =
        (0..40).map(|index| format!("include_file \"/f{0}.cfg\"\ninclude_file \"/f{0}.cfg\"\n", index + 1)).collect();
    let files: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let (_, found) = load_all(&files);
    assert!(found.iter().any(|error| error.code == "include-limit"));
    assert!(found.len() <= INCLUDE_COUNT_MAX + 1);
}

#[test]
fn a_deep_chain_is_refused() {
    let names: Vec<String> = (0..60).map(|index| format!("/f{index}.cfg")).collect();
    let texts: Vec<String> = (0..60).map(|index| format!("include_file \"/f{}.cfg\"\n", index + 1)).collect();
    let files: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let (map, found) = load_all(&files);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].code, map.name(found[0].span.file)), ("include-limit", "/f49.cfg"));
}

#[test]
fn an_unreadable_main_file_is_an_error_and_an_empty_script() {
    let reader = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let (map, found) = load(Path::new("/none.cfg"), &reader);
    assert_eq!((found.len(), map.flat().len()), (1, 0));
}
