//! A registry of commands and a temporary folder for the tests of the transports.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use serde_json::{Value as Json, json};
use tandem_admin::JsonRpc;
use tandem_module::mi::{MiError, MiRegistry, MiReply};
use tandem_script::surface::CommandSpec;

pub(crate) struct Commands {
    pub(crate) mi: Arc<MiRegistry>,
    /// What `count` has counted.
    pub(crate) count: Arc<AtomicI64>,
}

fn spec(name: &'static str, params: &'static [&'static str]) -> CommandSpec {
    CommandSpec { name, aliases: &[], params, doc: "" }
}

/// `echo text times?`, `count by?`, `later`, `never`, `refuse`, `panic`, `big`.
pub(crate) fn commands() -> Commands {
    let mi = Arc::new(MiRegistry::default());
    let count = Arc::new(AtomicI64::new(0));
    mi.register(spec("echo", &["text", "times?"]), |request| {
        let result =
            request.text("text").and_then(|text| Ok(json!({ "text": text, "times": request.int_opt("times")? })));
        MiReply::Now(result)
    });
    let counter = count.clone();
    mi.register(spec("count", &["by?"]), move |request| {
        MiReply::Now(
            request
                .int_opt("by")
                .map(|by| json!(counter.fetch_add(by.unwrap_or(1), Ordering::SeqCst) + by.unwrap_or(1))),
        )
    });
    mi.register(spec("later", &[]), |_| {
        MiReply::Later(Box::pin(async {
            tokio::task::yield_now().await;
            Ok(json!("OK"))
        }))
    });
    mi.register(spec("never", &[]), |_| MiReply::Later(Box::pin(std::future::pending())));
    mi.register(spec("refuse", &[]), |_| MiReply::Now(Err(MiError::new(404, "Nothing here"))));
    mi.register(spec("panic", &[]), |_| panic!("a broken command"));
    mi.register(spec("big", &["bytes"]), |request| {
        MiReply::Now(request.int("bytes").map(|bytes| json!("x".repeat(bytes as usize))))
    });
    Commands { mi, count }
}

pub(crate) fn rpc() -> Arc<JsonRpc> {
    Arc::new(JsonRpc::new(commands().mi))
}

pub(crate) fn parsed(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes).unwrap()
}

pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!(
            "tandem-admin-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
