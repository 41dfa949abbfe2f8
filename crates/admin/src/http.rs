//! The HTTP server of the `httpd` module and the routes other modules add to it (`mi_http`, `prometheus`). No TLS, no
//! files, no command of its own.

mod guard;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;
use tandem_module::db::BoxFuture;
use tokio::net::TcpListener;

use crate::error::AdminError;
use crate::jsonrpc::JsonRpc;
use guard::Limited;

/// How long connections may finish after the shutdown signal.
const DRAIN: Duration = Duration::from_secs(2);

/// Parameters of `httpd`.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address to listen on; `*` is all of IPv6 and IPv4 (`ip`, 127.0.0.1).
    pub ip: String,
    /// Port; 0 takes a free one (`port`, 8888).
    pub port: u16,
    /// Idle connections are closed after this, and no request may take longer to arrive; zero never (`conn_timeout`,
    /// 30 s).
    pub conn_timeout: Duration,
    /// Greatest time for a handler (15 s); beyond, 503.
    pub request_timeout: Duration,
    /// Longest body, in bytes (1 MiB; `post_buf_size` may raise it); a longer one gets 413.
    pub body_bytes_max: usize,
    /// Most connections at a time (256); further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Realm of the challenge (`auth_realm`).
    pub realm: String,
    /// User and password which every request must have (`auth_username`, `auth_password`).
    pub credentials: Option<(String, String)>,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            ip: "127.0.0.1".into(),
            port: 8888,
            conn_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(15),
            body_bytes_max: 1 << 20,
            connections_max: 256,
            realm: "OpenSIPS MI".into(),
            credentials: None,
        }
    }
}

/// A request as a route sees it.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// Method in capitals.
    pub method: String,
    /// Path with its leading slash.
    pub path: String,
    /// Query without `?`, empty when there is none.
    pub query: String,
    /// Body.
    pub body: Bytes,
    /// Where it came from.
    pub peer: SocketAddr,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Content-Type; not sent when empty.
    pub content_type: &'static str,
    /// Body.
    pub body: Bytes,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl HttpResponse {
    /// An answer with a body.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
        HttpResponse { status, content_type, body: body.into(), headers: Vec::new() }
    }

    /// A line of text.
    pub fn text(status: u16, text: impl Into<String>) -> HttpResponse {
        HttpResponse::new(status, "text/plain; charset=utf-8", text.into() + "\n")
    }

    /// 405 with the methods that would work, and a hint.
    pub fn method_not_allowed(allow: &str, hint: &str) -> HttpResponse {
        let mut response = HttpResponse::text(405, hint);
        response.headers.push(("allow", allow.to_owned()));
        response
    }

    fn into_axum(self) -> Response {
        let mut builder = Response::builder().status(self.status);
        if !self.content_type.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, self.content_type);
        }
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder.body(Body::from(self.body)).unwrap_or_else(|_| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// Answers requests of a route.
pub type HttpHandler = Arc<dyn Fn(HttpRequest) -> BoxFuture<HttpResponse> + Send + Sync>;

/// The paths of the server, by first segment; modules add theirs, also while it runs.
#[derive(Default)]
pub struct HttpRoutes {
    routes: RwLock<HashMap<String, (&'static str, HttpHandler)>>,
}

impl HttpRoutes {
    /// Adds `/root` and everything under it for `module`; false when another module has it already.
    pub fn add(&self, root: &str, module: &'static str, handler: HttpHandler) -> bool {
        let root = root.trim_matches('/').to_owned();
        self.routes.write().try_insert(root, (module, handler)).is_ok()
    }

    /// Roots and their modules, sorted (`httpd:list_root_path`).
    pub fn list(&self) -> Vec<(String, &'static str)> {
        let mut all: Vec<_> = self.routes.read().iter().map(|(root, (module, _))| (root.clone(), *module)).collect();
        all.sort();
        all
    }

    fn handler(&self, path: &str) -> Option<HttpHandler> {
        let root = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.routes.read().get(root).map(|(_, handler)| handler.clone())
    }
}

/// The handler of `mi_http`: JSON-RPC by POST. Usually added under `mi`.
pub fn mi_handler(rpc: Arc<JsonRpc>) -> HttpHandler {
    Arc::new(move |request: HttpRequest| {
        let rpc = rpc.clone();
        Box::pin(async move {
            if request.method != "POST" {
                let hint = format!(
                    "This is the management interface. Send JSON-RPC 2.0 by POST, for example:\n{}",
                    curl(&request.path)
                );
                return HttpResponse::method_not_allowed("POST", &hint);
            }
            match rpc.handle(&request.body).await {
                Some(answer) => HttpResponse::new(200, "application/json", answer),
                None => HttpResponse::new(204, "", Bytes::new()),
            }
        })
    })
}

fn curl(path: &str) -> String {
    // The path is the client's: only what needs no quoting is repeated.
    let path: String = path.chars().filter(|char| char.is_ascii_alphanumeric() || "/_-.".contains(*char)).collect();
    format!("  curl -d '{{\"jsonrpc\":\"2.0\",\"method\":\"which\",\"id\":1}}' http://HOST:PORT{path}")
}

/// A bound server.
pub struct HttpServer {
    listener: TcpListener,
    config: HttpConfig,
    routes: Arc<HttpRoutes>,
}

impl HttpServer {
    /// Binds the address. Says so aloud when it can be reached from elsewhere.
    ///
    /// # Errors
    /// [`AdminError::Listen`].
    pub async fn bind(config: HttpConfig, routes: Arc<HttpRoutes>) -> Result<HttpServer, AdminError> {
        let listen = async |ip: &str| TcpListener::bind((ip, config.port)).await;
        let bound = match config.ip.trim().trim_matches(['[', ']']) {
            "*" => match listen("::").await {
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => listen("0.0.0.0").await,
                bound => bound,
            },
            ip => listen(ip).await,
        };
        let failed =
            |error| AdminError::Listen { transport: "httpd", address: format!("{}:{}", config.ip, config.port), error };
        let listener = bound.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !is_loopback(address.ip()) {
            let protection = if config.credentials.is_some() {
                "a password, but no encryption,"
            } else {
                "neither password nor encryption"
            };
            tracing::warn!(%address, "httpd: the management interface can be reached from other hosts; {protection} protects it");
        }
        Ok(HttpServer { listener, config, routes })
    }

    /// The address, with the port when a free one was taken.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is ready, then lets running requests end for two seconds.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let limited = Limited::new(
            self.listener,
            self.config.connections_max,
            self.config.conn_timeout,
            self.config.request_timeout,
        );
        let shared = Arc::new(Shared { routes: self.routes, config: self.config });
        let router = Router::new().fallback(answer).with_state(shared);
        let (signal, mut signalled) = tokio::sync::watch::channel(false);
        let stopping = async move {
            shutdown.await;
            let _ = signal.send(true);
        };
        let service = router.into_make_service_with_connect_info::<Peer>();
        let serving = axum::serve(limited, service).with_graceful_shutdown(stopping).into_future();
        tokio::select! {
            _ = serving => {}
            () = async {
                let _ = signalled.wait_for(|is_stopping| *is_stopping).await;
                tokio::time::sleep(DRAIN).await;
            } => {}
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

/// Peer of a connection, as axum hands it on.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Limited>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Limited>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

struct Shared {
    routes: Arc<HttpRoutes>,
    config: HttpConfig,
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    respond(&shared, peer, request).await.into_axum()
}

async fn respond(shared: &Shared, peer: SocketAddr, request: Request) -> HttpResponse {
    let config = &shared.config;
    let (parts, body) = request.into_parts();
    if !is_authorised(&parts.headers, config) {
        let mut response = HttpResponse::text(401, "user and password needed");
        let realm = config.realm.replace(['"', '\\'], "");
        response.headers.push(("www-authenticate", format!("Basic realm=\"{realm}\"")));
        return response;
    }
    if is_foreign_page(&parts.headers) {
        return HttpResponse::text(403, "requests from web pages of other origins are refused");
    }
    let Some(handler) = shared.routes.handler(parts.uri.path()) else {
        let roots: Vec<String> = shared.routes.list().into_iter().map(|(root, _)| format!("/{root}")).collect();
        return HttpResponse::text(404, format!("no such path; there are: {}", roots.join(" ")));
    };
    let Ok(body) = axum::body::to_bytes(body, config.body_bytes_max).await else {
        return HttpResponse::text(
            413,
            format!("the body is incomplete or longer than {} bytes", config.body_bytes_max),
        );
    };
    let request = HttpRequest {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body,
        peer,
    };
    let timed_out = |_| HttpResponse::text(503, "no answer in time");
    tokio::time::timeout(config.request_timeout, handler(request)).await.unwrap_or_else(timed_out)
}

fn is_authorised(headers: &HeaderMap, config: &HttpConfig) -> bool {
    let Some((user, password)) = &config.credentials else { return true };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let given = given.and_then(|(_, token)| base64::engine::general_purpose::STANDARD.decode(token.trim()).ok());
    given.is_some_and(|given| given.ct_eq(format!("{user}:{password}").as_bytes()).into())
}

/// A browser names the origin of the page that makes a request; pages from elsewhere must not reach the management
/// interface through the browser of somebody who can.
fn is_foreign_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    origin.is_none() || origin != host
}
