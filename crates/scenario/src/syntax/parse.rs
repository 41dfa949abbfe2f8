//! From the text of a test file to its parts: lines, what belongs to which, the head of the file. Single steps are in `steps`.

use std::path::{Path, PathBuf};

use tandem_module::transport::Proto;
use tandem_script::ast::Dialect;

use super::detail::Line;
use super::error::{Fault, SyntaxError};
use super::token::{self, Form};
use super::words::{Words, fault};
use super::{FILE_BYTES_MAX, NodeDecl, PhoneDecl, Step, TESTS_MAX, Test, TestFile, steps};

/// Words that are for the reader only.
const FILLERS: [&str; 4] = ["given", "when", "then", "and"];
/// Lines that may only stand before the first test.
const HEAD_WORDS: [&str; 6] = ["script", "dialect", "permissive", "file", "domain", "phone"];

/// Reads a test file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<TestFile, Vec<SyntaxError>> {
    let mut parser = Parser::new(path, text);
    if text.len() > FILE_BYTES_MAX {
        parser.error(1, Fault::at(1, 1, format!("a test file is at most {FILE_BYTES_MAX} bytes long")));
        return Err(parser.errors);
    }
    parser.declarations();
    parser.read();
    if parser.errors.is_empty() && parser.file.script.as_os_str().is_empty() {
        let fault = Fault::at(1, 1, "the file does not say which script it tests");
        parser.error(1, fault.help("begin it with a line such as: script ../opensips.cfg"));
    }
    if parser.errors.is_empty() { Ok(parser.file) } else { Err(parser.errors) }
}

/// What the parser of a step must know of the file.
pub(super) struct Names {
    pub(super) phones: Vec<String>,
    pub(super) nodes: Vec<i32>,
}

struct Parser<'a> {
    name: String,
    lines: Vec<&'a str>,
    file: TestFile,
    names: Names,
    errors: Vec<SyntaxError>,
}

fn indent(line: &str) -> usize {
    line.chars().take_while(|char| char.is_whitespace()).map(|char| if char == '\t' { 8 } else { 1 }).sum()
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

impl<'a> Parser<'a> {
    fn new(path: &Path, text: &'a str) -> Parser<'a> {
        Parser {
            name: path.display().to_string(),
            lines: text.lines().collect(),
            file: TestFile {
                path: path.to_owned(),
                script: PathBuf::new(),
                dialect: None,
                is_permissive: false,
                files: Vec::new(),
                domain: "example.org".to_owned(),
                phones: Vec::new(),
                nodes: Vec::new(),
                background: Vec::new(),
                tests: Vec::new(),
            },
            names: Names { phones: Vec::new(), nodes: Vec::new() },
            errors: Vec::new(),
        }
    }

    fn line(&self, number: usize) -> &'a str {
        self.lines.get(number).copied().unwrap_or_default()
    }

    fn error(&mut self, line: u32, fault: Fault) {
        let source = self.line(line as usize - 1).to_owned();
        let Fault { column, width, message, help } = fault;
        self.errors.push(SyntaxError { file: self.name.clone(), line, column, width, source, message, help });
    }

    /// Phones and nodes first: a step may name them before their line comes, and a wrong name gets a suggestion.
    fn declarations(&mut self) {
        for line in &self.lines {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("phone"), Some(name), Some("at")) => self.names.phones.push(name.to_owned()),
                (Some("node"), Some(id), Some("at")) => self.names.nodes.extend(id.parse::<i32>()),
                _ => {}
            }
        }
    }

    fn read(&mut self) {
        let mut at = 0;
        while at < self.lines.len() {
            let line = self.line(at);
            if is_blank(line) {
                at += 1;
                continue;
            }
            let own = indent(line);
            let mut end = at + 1;
            let is_test = line.split_whitespace().next() == Some("test");
            // What is deeper belongs to this line; empty lines inside of it, too. A test's steps are read one by one.
            let mut last = at;
            while !is_test
                && end < self.lines.len()
                && (self.line(end).trim().is_empty() || indent(self.line(end)) > own)
            {
                if !self.line(end).trim().is_empty() {
                    last = end;
                }
                end += 1;
            }
            let details = (at + 1..=last).map(|at| Line::new(at as u32 + 1, self.line(at))).collect::<Vec<_>>();
            self.entry(at as u32 + 1, line, &details);
            at = last + 1;
        }
    }

    fn entry(&mut self, number: u32, line: &str, details: &[Line<'_>]) {
        let result = token::split(line).and_then(|tokens| {
            let mut words = Words::new(&tokens);
            let first = words.peek().map(|token| token.text.as_str()).unwrap_or_default();
            if first == "test" {
                words.takes("test");
                return self.test(number, &mut words);
            }
            if self.is_head(&mut words)? {
                let mut faults = Vec::new();
                super::detail::none(details, &mut faults);
                for (line, fault) in faults {
                    self.error(line, fault);
                }
                return words.finish();
            }
            self.step(number, line, &tokens, details)
        });
        if let Err(fault) = result {
            self.error(number, fault);
        }
    }

    fn test(&mut self, number: u32, words: &mut Words<'_>) -> Result<(), Fault> {
        let token = words.next("the name of the test")?;
        if token.form != Form::Quoted {
            return Err(fault(token, "the name of a test stands in quotes").help("write: test \"what it shows\""));
        }
        if self.file.tests.len() >= TESTS_MAX {
            return Err(fault(token, format!("a file has at most {TESTS_MAX} tests")));
        }
        if self.file.tests.iter().any(|test| test.name == token.text) {
            return Err(fault(token, format!("there is a test \"{}\" already", token.text)));
        }
        self.file.tests.push(Test { name: token.text.clone(), line: number, steps: Vec::new() });
        words.finish()
    }

    /// Takes a line of the head in; false for a step.
    fn is_head(&mut self, words: &mut Words<'_>) -> Result<bool, Fault> {
        let Some(first) = words.peek() else { return Ok(true) };
        let is_node = first.text == "node" && is_node_declaration(words);
        if first.form != Form::Word || !(HEAD_WORDS.contains(&first.text.as_str()) || is_node) {
            return Ok(false);
        }
        if !self.file.tests.is_empty() {
            let text = format!("`{}` must stand before the first test", first.text);
            return Err(fault(first, text).help("it is the same for all tests of a file"));
        }
        words.next("a word")?;
        match first.text.as_str() {
            "script" => self.file.script = self.beside(&words.text("the file of the script")?),
            "dialect" => {
                let version = words.one_of(&["2.4", "3.x", "4.0"])?;
                self.file.dialect = Some(if version == "2.4" { Dialect::V2_4 } else { Dialect::V4_0 });
            }
            "permissive" => self.file.is_permissive = true,
            "file" => {
                let asked = words.text("the name of the included file")?;
                words.expect("is")?;
                let other = self.beside(&words.text("the file to read in its place")?);
                self.file.files.push((asked, other));
            }
            "domain" => self.file.domain = words.text("the domain of the phones")?,
            "phone" => self.phone(words)?,
            _ => {
                let id = words.number("the number of the node")?;
                words.expect("at")?;
                let url = words.text("the URL of the node")?;
                let url = if url.contains("bin:") || url.contains("bins:") { url } else { format!("bin:{url}") };
                self.file.nodes.push(NodeDecl { id, url });
            }
        }
        Ok(true)
    }

    fn phone(&mut self, words: &mut Words<'_>) -> Result<(), Fault> {
        let name = words.next("the name of the phone")?;
        words.expect("at")?;
        let (proto, addr) = words.address()?;
        let proto = if words.takes("over") {
            let token = words.next("a transport")?;
            let found = Proto::from_name(token.text.as_bytes());
            found.ok_or_else(|| {
                fault(token, format!("`{}` is no transport", token.text)).help("udp, tcp, tls, ws or wss")
            })?
        } else {
            proto.unwrap_or(Proto::Udp)
        };
        if self.file.phones.iter().any(|phone| phone.name == name.text) {
            return Err(fault(name, format!("there is a phone `{}` already", name.text)));
        }
        self.file.phones.push(PhoneDecl { name: name.text.clone(), addr, proto });
        Ok(())
    }

    fn beside(&self, path: &str) -> PathBuf {
        self.file.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn step(&mut self, number: u32, line: &str, tokens: &[token::Token], details: &[Line<'_>]) -> Result<(), Fault> {
        let mut words = Words::new(tokens);
        for filler in FILLERS {
            words.takes(filler);
        }
        let mut faults = Vec::new();
        let action = steps::action(&mut words, details, &self.names, &mut faults);
        for (line, fault) in faults {
            self.error(line, fault);
        }
        let action = action?;
        words.finish()?;
        let step = Step { line: number, text: line.trim().to_owned(), action };
        match self.file.tests.last_mut() {
            Some(test) => test.steps.push(step),
            None => self.file.background.push(step),
        }
        Ok(())
    }
}

/// `node 2 at ...` as against `node 2 hears ...`.
fn is_node_declaration(words: &Words<'_>) -> bool {
    words.after(2).is_some_and(|token| token.text == "at")
}
