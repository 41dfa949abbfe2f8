//! The named pipe of `mi_fifo`: reads requests, runs them, answers into the pipes the clients name. Never waits for a
//! client: answers are written beside, each within a bound.

mod decode;
mod reply;

use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;

use crate::error::AdminError;
use crate::jsonrpc::JsonRpc;
pub(crate) use decode::text_request;
pub use decode::{FifoDecoder, FifoRequest};

const TRANSPORT: &str = "mi_fifo";

/// Most commands and answers under way beside each other; what comes beyond is dropped with a message.
const UNDER_WAY_MAX: usize = 256;

/// How often the pipe is looked after: a deleted one is made anew.
const CHECK_PERIOD: Duration = Duration::from_secs(30);

/// Parameters of `mi_fifo`.
#[derive(Clone, Debug)]
pub struct FifoConfig {
    /// Path (`fifo_name`, /tmp/opensips_fifo).
    pub path: PathBuf,
    /// Permissions (`fifo_mode`, 0660).
    pub mode: u32,
    /// Owner (`fifo_user`).
    pub user: Option<u32>,
    /// Group (`fifo_group`).
    pub group: Option<u32>,
    /// Folder of the clients' pipes (`reply_dir`, /tmp/).
    pub reply_dir: PathBuf,
    /// Greatest time for one answer, waiting for its reader included (2 s).
    pub reply_timeout: Duration,
    /// A request that stays incomplete this long is given up (1 s).
    pub partial_timeout: Duration,
}

impl Default for FifoConfig {
    fn default() -> FifoConfig {
        FifoConfig {
            path: "/tmp/opensips_fifo".into(),
            mode: 0o660,
            user: None,
            group: None,
            reply_dir: "/tmp/".into(),
            reply_timeout: Duration::from_secs(2),
            partial_timeout: Duration::from_secs(1),
        }
    }
}

/// A server with its pipe.
pub struct FifoServer {
    config: FifoConfig,
    receiver: Receiver,
    inode: u64,
    rpc: Arc<JsonRpc>,
    under_way: Arc<Semaphore>,
}

impl FifoServer {
    /// Creates the pipe; one left over from an earlier run is replaced. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`AdminError::Occupied`], [`AdminError::InUse`], [`AdminError::File`].
    pub fn create(config: FifoConfig, rpc: Arc<JsonRpc>) -> Result<FifoServer, AdminError> {
        let (receiver, inode) = create(&config)?;
        Ok(FifoServer { config, receiver, inode, rpc, under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)) })
    }

    /// Serves until `shutdown` is ready, then removes the pipe.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut check = tokio::time::interval(CHECK_PERIOD);
        let mut decoder = FifoDecoder::default();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let partial_timeout = self.config.partial_timeout;
            let is_partial = decoder.is_partial();
            tokio::select! {
                () = &mut shutdown => break,
                _ = check.tick() => self.look_after(),
                () = tokio::time::sleep(partial_timeout), if is_partial => {
                    if let Some(request) = decoder.give_up() {
                        self.start(request).await;
                    }
                }
                read = self.receiver.read(&mut buffer) => match read {
                    Ok(count) => {
                        decoder.feed(buffer.get(..count).unwrap_or_default());
                        while let Some(request) = decoder.next() {
                            self.start(request).await;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "mi_fifo: cannot read");
                        tokio::time::sleep(partial_timeout).await;
                    }
                },
            }
        }
        if inode(&self.config.path) == Some(self.inode) {
            let _ = std::fs::remove_file(&self.config.path);
        }
    }

    fn look_after(&mut self) {
        if inode(&self.config.path) == Some(self.inode) {
            return;
        }
        match create(&self.config) {
            Ok((receiver, inode)) => (self.receiver, self.inode) = (receiver, inode),
            Err(error) => tracing::error!(%error, "mi_fifo: the pipe is gone and cannot be made again"),
        }
    }

    /// Starts a request, in the order of arrival. Only what cannot be answered at once goes on beside the others.
    async fn start(&self, request: FifoRequest) {
        if let FifoRequest::Bad(reason) = request {
            tracing::warn!(reason, "mi_fifo: bad request dropped");
            return;
        }
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else {
            tracing::warn!("mi_fifo: too many requests under way, one dropped");
            return;
        };
        let (rpc, reply_dir, reply_timeout) =
            (self.rpc.clone(), self.config.reply_dir.clone(), self.config.reply_timeout);
        let mut work = Box::pin(async move { execute(&rpc, request).await });
        let now = std::future::poll_fn(|cx| {
            Poll::Ready(match work.as_mut().poll(cx) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            })
        })
        .await;
        let finish = async move {
            let answer = match now {
                Some(answer) => answer,
                None => work.await,
            };
            if let Some((name, bytes)) = answer
                && let Err(error) = reply::write(&reply_dir, &name, &bytes, reply_timeout).await
            {
                tracing::warn!(reply_fifo = name, %error, "mi_fifo: answer not delivered");
            }
            drop(permit);
        };
        tokio::spawn(finish);
    }
}

/// Runs a request; gives the name of the pipe for the answer and the answer, if there is to be one.
async fn execute(rpc: &JsonRpc, request: FifoRequest) -> Option<(String, Vec<u8>)> {
    match request {
        FifoRequest::JsonRpc { reply, body } => {
            let answer = rpc.handle(&body).await;
            Some((reply?, answer?))
        }
        FifoRequest::Text { command, reply, params } => {
            let answer = rpc.call_text(&command, params).await;
            Some((reply?, answer))
        }
        FifoRequest::Bad(_) => None,
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

fn create(config: &FifoConfig) -> Result<(Receiver, u64), AdminError> {
    let path = &config.path;
    let failed = |error: std::io::Error| AdminError::File { transport: TRANSPORT, path: path.clone(), error };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_fifo() => {
            return Err(AdminError::Occupied { transport: TRANSPORT, path: path.clone(), expected: "named pipe" });
        }
        Ok(_) => {
            // Opening for writing without waiting succeeds only when somebody reads.
            if reply::open(path).is_ok() {
                return Err(AdminError::InUse { transport: TRANSPORT, path: path.clone() });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {}
    }
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| failed(error.into()))?;
    // Reading and writing, so that the pipe does not end whenever the last client leaves.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file =
        std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    if config.user.is_some() || config.group.is_some() {
        nix::unistd::fchown(&file, config.user.map(Uid::from_raw), config.group.map(Gid::from_raw))
            .map_err(|error| failed(error.into()))?;
    }
    // The mode last, and on the open file: the mask of the process does not apply, and nobody can swap the path.
    file.set_permissions(std::fs::Permissions::from_mode(config.mode & 0o777)).map_err(failed)?;
    let inode = file.metadata().map_err(failed)?.ino();
    Ok((Receiver::from_file(file).map_err(failed)?, inode))
}
