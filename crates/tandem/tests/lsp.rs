//! The language server, driven as an editor does: a child process, framed messages, answers within a bounded wait.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value as Json, json};

/// Longest wait for a message of the server.
const SOON: Duration = Duration::from_secs(30);

const SCRIPT: &str = r#"loadmodule "tm.so"
loadmodule "sl.so"
modparam("tm", "fr_timeout", 5)
route {
	xlog("é from $fU\n");
	if (!t_realy())
		send_reply(500, "Internal Error");
	t_on_failure("AGAIN");
	route(RELAY);
}

# Sends it on.
route[RELAY] {
	if (!t_relay())
		sl_send_reply(500, "Internal Error");
	exit;
}

failure_route[AGAIN] {
	exit;
}
"#;

struct Editor {
    child: Child,
    /// Taken away to close it.
    input: Option<ChildStdin>,
    messages: Receiver<Json>,
    folder: PathBuf,
    next: i64,
}

impl Editor {
    fn start(name: &str, args: &[&str]) -> Editor {
        let folder = std::env::temp_dir().join(format!("tandem-lsp-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tandem"))
            .arg("lsp")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            loop {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if output.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(number) = line.strip_prefix("Content-Length:") {
                        length = number.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                output.read_exact(&mut body).unwrap();
                if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut editor = Editor { child, input, messages, folder, next: 0 };
        let answer = editor.request("initialize", json!({ "capabilities": {}, "processId": null, "rootUri": null }));
        assert_eq!(answer["serverInfo"]["name"], "tandem");
        assert_eq!(answer["capabilities"]["positionEncoding"], "utf-16");
        editor.notify("initialized", json!({}));
        editor
    }

    fn send(&mut self, message: &Json) {
        let body = message.to_string();
        let input = self.input.as_mut().expect("still connected");
        write!(input, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        input.flush().unwrap();
    }

    fn notify(&mut self, method: &str, params: Json) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn request(&mut self, method: &str, params: Json) -> Json {
        self.next += 1;
        let id = self.next;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.messages.recv_timeout(SOON).expect("an answer");
            if message["id"] == id {
                assert!(message["error"].is_null(), "{message}");
                return message["result"].clone();
            }
        }
    }

    /// The next findings for a file.
    fn findings(&mut self, name: &str) -> Vec<Json> {
        let uri = self.uri(name);
        loop {
            let message = self.messages.recv_timeout(SOON).expect("findings");
            if message["method"] == "textDocument/publishDiagnostics" && message["params"]["uri"] == uri {
                return message["params"]["diagnostics"].as_array().unwrap().clone();
            }
        }
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}/{name}", self.folder.display())
    }

    fn open(&mut self, name: &str, text: &str) {
        let uri = self.uri(name);
        let document = json!({ "uri": uri, "languageId": "opensips", "version": 1, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
    }

    fn change(&mut self, name: &str, text: &str) {
        let uri = self.uri(name);
        let params = json!({ "textDocument": { "uri": uri, "version": 2 }, "contentChanges": [{ "text": text }] });
        self.notify("textDocument/didChange", params);
    }

    /// Asks at the place of `mark` in the text, `offset` characters behind its beginning.
    fn ask(&mut self, method: &str, name: &str, text: &str, mark: &str, offset: usize) -> Json {
        let at = text.find(mark).unwrap() + offset;
        let before = text.get(..at).unwrap();
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap().encode_utf16().count();
        let uri = self.uri(name);
        self.request(
            method,
            json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": column } }),
        )
    }

    fn stop(mut self) {
        assert!(self.request("shutdown", Json::Null).is_null());
        self.notify("exit", Json::Null);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn labels(items: &Json) -> Vec<&str> {
    items.as_array().unwrap().iter().map(|item| item["label"].as_str().unwrap()).collect()
}

#[test]
fn findings_follow_the_text() {
    let mut editor = Editor::start("findings", &[]);
    editor.open("a.cfg", SCRIPT);
    let found = editor.findings("a.cfg");
    let wrong: Vec<&Json> = found.iter().filter(|finding| finding["code"] == "unknown-function").collect();
    assert_eq!(wrong.len(), 1, "{found:?}");
    assert_eq!(wrong[0]["severity"], 1);
    assert_eq!(
        wrong[0]["range"],
        json!({ "start": { "line": 5, "character": 6 }, "end": { "line": 5, "character": 13 } })
    );
    assert!(wrong[0]["message"].as_str().unwrap().contains("did you mean `t_relay`?"), "{found:?}");
    // `send_reply` is of a module that the script does not load.
    assert!(found.iter().any(|finding| finding["code"] == "missing-function"), "{found:?}");
    let mended = SCRIPT.replace("t_realy", "t_relay").replace("\t\tsend_reply", "\t\tsl_send_reply");
    editor.change("a.cfg", &mended);
    assert_eq!(editor.findings("a.cfg"), [] as [Json; 0]);
    let uri = editor.uri("a.cfg");
    editor.notify("textDocument/didClose", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(editor.findings("a.cfg"), [] as [Json; 0]);
    editor.stop();
}

#[test]
fn an_included_file_is_judged_with_the_script_that_includes_it() {
    let mut editor = Editor::start("include", &[]);
    fs::write(editor.folder.join("part.cfg"), "route[A] {\n\tnosuch();\n}\n").unwrap();
    let main = "loadmodule \"sl.so\"\ninclude_file \"part.cfg\"\nroute {\n\troute(A);\n\tdrop;\n}\n";
    editor.open("main.cfg", main);
    let found = editor.findings("part.cfg");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["range"]["start"], json!({ "line": 1, "character": 1 }));
    editor.open("part.cfg", "route[A] {\n\tdrop;\n}\n");
    assert_eq!(editor.findings("part.cfg"), [] as [Json; 0], "the open text counts, not the file");
    let there = editor.ask("textDocument/definition", "main.cfg", main, "route(A)", 6);
    assert_eq!(there["uri"], editor.uri("part.cfg"), "{there}");
    editor.stop();
}

#[test]
fn hover_shows_the_tables_and_the_comment_of_a_route() {
    let mut editor = Editor::start("hover", &[]);
    editor.open("a.cfg", SCRIPT);
    for (mark, offset, wanted) in [
        ("sl_send_reply", 3, "Module `sl`"),
        ("fr_timeout", 2, "modparam(\"tm\", \"fr_timeout\""),
        ("$fU", 1, "$fU"),
        ("tm.so", 1, "Module `tm`"),
        ("RELAY);", 2, "Sends it on."),
        ("AGAIN\"", 1, "failure_route[AGAIN]"),
        ("xlog", 1, "log"),
    ] {
        let shown = editor.ask("textDocument/hover", "a.cfg", SCRIPT, mark, offset);
        assert!(shown["contents"]["value"].as_str().unwrap_or("").contains(wanted), "{mark}: {shown}");
    }
    let nothing = editor.ask("textDocument/hover", "a.cfg", SCRIPT, "Internal Error", 2);
    assert!(nothing.is_null(), "{nothing}");
    editor.stop();
}

#[test]
fn going_to_a_route_finds_the_kind_that_the_function_takes() {
    let mut editor = Editor::start("goto", &[]);
    let text = SCRIPT.replace("AGAIN", "RELAY");
    editor.open("a.cfg", &text);
    let there = editor.ask("textDocument/definition", "a.cfg", &text, "route(RELAY)", 8);
    assert_eq!(there["range"]["start"]["line"], 12, "{there}");
    let there = editor.ask("textDocument/definition", "a.cfg", &text, "t_on_failure(\"RELAY", 15);
    assert_eq!(there["range"]["start"]["line"], 18, "{there}");
    let nothing = editor.ask("textDocument/definition", "a.cfg", &text, "exit", 1);
    assert!(nothing.is_null(), "{nothing}");
    editor.stop();
}

#[test]
fn completion_offers_what_fits_the_place() {
    let mut editor = Editor::start("completion", &[]);
    let text = "loadmodule \"tm.so\"\nloadmodule \"s\"\nmodparam(\"tm\", \"f\", 5)\nroute {\n\t$avp(mine) = 1;\n\tt_;\n\txlog(\"$x\");\n\troute(R);\n\tt_on_failure(\"F\");\n}\nroute[RELAY] { exit; }\nfailure_route[AGAIN] { exit; }\nevent_route[E] { exit; }\n";
    editor.open("a.cfg", text);
    for (mark, offset, present, absent) in [
        ("t_;", 2, "t_relay", "sl_send_reply"),
        ("$x", 2, "avp(mine)", "t_relay"),
        ("$x", 2, "ru", "t_relay"),
        ("\"s\"", 2, "sl.so", "t_relay"),
        ("\"f\"", 2, "fr_timeout", "t_relay"),
        ("route(R)", 7, "RELAY", "AGAIN"),
        ("\"F\"", 2, "AGAIN", "RELAY"),
        ("event_route[E", 13, "E_CLUSTERER_REQ_RECEIVED", "t_relay"),
    ] {
        let items = editor.ask("textDocument/completion", "a.cfg", text, mark, offset);
        let labels = labels(&items);
        assert!(labels.contains(&present), "{mark}: {present} is missing in {labels:?}");
        assert!(!labels.contains(&absent), "{mark}: {absent} is too much in {labels:?}");
    }
    editor.stop();
}

#[test]
fn what_it_does_not_know_is_answered_and_a_lost_editor_ends_it() {
    let mut editor = Editor::start("unknown", &["--stdio"]);
    editor.notify("textDocument/didOpen", json!({ "nonsense": true }));
    editor.notify("textDocument/didSave", json!({}));
    editor.send(&json!({ "jsonrpc": "2.0", "id": 77, "method": "textDocument/rename", "params": {} }));
    editor.send(&json!({ "jsonrpc": "2.0", "id": 78, "method": "textDocument/hover", "params": { "position": 1 } }));
    for (id, code) in [(77, -32601), (78, -32602)] {
        let answer = editor.messages.recv_timeout(SOON).unwrap();
        assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(id), Some(code)), "{answer}");
    }
    // The input is closed without `shutdown`.
    editor.input = None;
    assert_eq!(editor.child.wait().unwrap().code(), Some(1));
}
