#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::test_rig::{Rig, RigOptions};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tandem-fifo-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn script(folder: &Path, params: &str) -> String {
    let folder = folder.display();
    format!(
        "loadmodule \"mi_fifo.so\"\nmodparam(\"mi_fifo\", \"fifo_name\", \"{folder}/in\")\n\
         modparam(\"mi_fifo\", \"reply_dir\", \"{folder}\")\n{params}\nroute {{ exit; }}\n"
    )
}

fn ask(folder: &Path, request: &str) -> String {
    let reply = folder.join("reply");
    let _ = std::fs::remove_file(&reply);
    nix::unistd::mkfifo(&reply, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut pipe = std::fs::OpenOptions::new().write(true).open(folder.join("in")).unwrap();
    pipe.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::fs::File::open(&reply).unwrap().read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn both_forms_of_requests_are_answered_through_a_real_pipe() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let folder = folder("both");
    let rig = Rig::script(&script(&folder, "modparam(\"mi_fifo\", \"fifo_mode\", 0600)"));
    let metadata = std::fs::metadata(folder.join("in")).unwrap();
    assert!(metadata.file_type().is_fifo());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let answer = ask(&folder, ":reply:{\"jsonrpc\":\"2.0\",\"method\":\"no_such\",\"id\":3}\n");
    assert!(answer.contains("-32601") && answer.contains("\"id\":3"), "{answer}");
    assert_eq!(ask(&folder, ":no_such:reply\n\n"), "500 command not available\n");
    for module in rig.node.modules() {
        (module.stop)(rig.node);
    }
    drop(_entered);
    drop(runtime);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn wrong_parameters_are_errors_at_start() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let folder = folder("wrong");
    std::fs::write(folder.join("file"), "kept").unwrap();
    for (param, expected) in [
        ("modparam(\"mi_fifo\", \"fifo_mode\", \"0999\")", "0999"),
        ("modparam(\"mi_fifo\", \"fifo_user\", \"no-such-user-here\")", "no-such-user-here"),
        ("modparam(\"mi_fifo\", \"fifo_group\", \"no-such-group\")", "no-such-group"),
        ("modparam(\"mi_fifo\", \"reply_dir\", \"/nonexistent\")", "/nonexistent"),
    ] {
        let error = Rig::try_script(&script(&folder, param), RigOptions::default()).err().expect(expected);
        assert!(error.contains(expected), "{error}");
    }
    let text = script(&folder, "").replace("/in\"", "/file\"");
    let error = Rig::try_script(&text, RigOptions::default()).err().expect("a file was taken for a pipe");
    assert!(error.contains("file"), "{error}");
    assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "kept");
    let _ = std::fs::remove_dir_all(folder);
}
