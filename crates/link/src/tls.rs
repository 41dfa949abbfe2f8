//! BIN over TLS as OpenSIPS speaks it (`bins:`), with certificates of both ends: the byte layer and whose certificate it is.
//!
//! The names in a certificate need not fit an address: that it is of the right authority is checked in the handshake, and that
//! it is of the right node by [`PeerCertificate::is_node`] afterwards. A node's certificate has the DNS name
//! `nodeN.clusterC.tandem` among its subjectAltNames.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme,
};

use crate::link::WAITING_BYTES_MAX;

/// Nodes remembered per certificate.
const NODES_MAX: usize = 16;

/// Why TLS cannot be set up or a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A certificate, key or list that cannot be read.
    #[error("{0}")]
    Setup(String),
    /// The handshake or a record failed.
    #[error("TLS: {0}")]
    Failed(String),
    /// Too much waits for the handshake.
    #[error("more than {WAITING_BYTES_MAX} bytes wait for the TLS handshake")]
    WaitingFull,
}

/// Certificates as PEM.
#[derive(Clone)]
pub struct TlsFiles {
    /// The own certificate and those between it and the authority.
    pub certificate: Vec<u8>,
    /// Its key.
    pub private_key: zeroize::Zeroizing<Vec<u8>>,
    /// Authorities whose certificates are accepted.
    pub ca_list: Vec<u8>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

/// Both ends' settings.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn setup(what: &str, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Setup(format!("{what}: {error}"))
}

fn chain(files: &TlsFiles) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files.certificate).collect();
    let chain = chain.map_err(|error| setup("certificate", &error))?;
    if chain.is_empty() {
        return Err(TlsError::Setup("certificate: there is none in the file".to_owned()));
    }
    Ok(chain)
}

impl Tls {
    /// Settings of a node whose peers have to show a certificate of an authority in `ca_list`, both ways.
    ///
    /// # Errors
    /// What cannot be read, or a key that does not fit its certificate.
    pub fn mutual(files: &TlsFiles) -> Result<Tls, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let key = || PrivateKeyDer::from_pem_slice(&files.private_key).map_err(|error| setup("private_key", &error));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&files.ca_list) {
            let certificate = certificate.map_err(|error| setup("ca_list", &error))?;
            roots.add(certificate).map_err(|error| setup("ca_list", &error))?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let clients = clients.build().map_err(|error| setup("ca_list", &error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let servers = servers.build().map_err(|error| setup("ca_list", &error))?;
        let fits = |error: Error| setup("certificate and private_key", &error);
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(fits)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain(files)?, key()?)
            .map_err(fits)?;
        let any_name = Arc::new(AnyName { inner: servers, _provider: provider.clone() });
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(fits)?
            .dangerous()
            .with_custom_certificate_verifier(any_name)
            .with_client_auth_cert(chain(files)?, key()?)
            .map_err(fits)?;
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }

    /// These settings for accepted connections, and those of `other` for opened ones.
    #[must_use]
    pub fn with_client_of(self, other: &Tls) -> Tls {
        Tls { client: other.client.clone(), server: self.server }
    }

    /// The settings of opened connections, for protocols other than BIN. The server's certificate has to be of an authority
    /// in `ca_list`; its name is not compared.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// The end that opened the connection to `remote`.
    ///
    /// # Errors
    /// Only when the cryptography cannot be set up.
    pub fn open(&self, remote: IpAddr) -> Result<TlsLink, TlsError> {
        let made = ClientConnection::new(self.client.clone(), ServerName::IpAddress(remote.into()));
        made.map(|made| TlsLink::new(made.into())).map_err(|error| failed(&error))
    }

    /// The end that accepted the connection.
    ///
    /// # Errors
    /// Only when the cryptography cannot be set up.
    pub fn accept(&self) -> Result<TlsLink, TlsError> {
        let made = ServerConnection::new(self.server.clone());
        made.map(|made| TlsLink::new(made.into())).map_err(|error| failed(&error))
    }
}

fn failed(error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Failed(error.to_string())
}

/// Checks everything about a server's certificate but its name, which is the node's and not the address's.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
    _provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is the last thing that is checked: all else was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// One end of a TLS connection.
#[derive(Debug)]
pub struct TlsLink {
    inner: Connection,
}

impl TlsLink {
    fn new(mut inner: Connection) -> TlsLink {
        inner.set_buffer_limit(Some(WAITING_BYTES_MAX));
        TlsLink { inner }
    }

    /// The connection is up: the opener speaks.
    ///
    /// # Errors
    /// Only when the cryptography fails.
    pub fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), TlsError> {
        self.flush(wire)
    }

    /// Takes bytes from the wire; appends what they mean to `plain` and what must be answered to `wire`.
    ///
    /// # Errors
    /// Why the connection must be closed.
    pub fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut input = input;
        while !input.is_empty() {
            let before = input.len();
            self.inner.read_tls(&mut input).map_err(|error| failed(&error))?;
            let state = self.inner.process_new_packets().map_err(|error| failed(&error))?;
            if state.plaintext_bytes_to_read() > 0 {
                let at = plain.len();
                plain.resize(at + state.plaintext_bytes_to_read(), 0);
                let room = plain.get_mut(at..).unwrap_or_default();
                self.inner.reader().read_exact(room).map_err(|error| failed(&error))?;
            }
            if input.len() == before {
                break;
            }
        }
        self.flush(wire)
    }

    /// Takes a message to send; it waits for the handshake.
    ///
    /// # Errors
    /// When too much waits.
    pub fn send(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), TlsError> {
        let taken = self.inner.writer().write(message).map_err(|error| failed(&error))?;
        if taken < message.len() {
            return Err(TlsError::WaitingFull);
        }
        self.flush(wire)
    }

    /// Appends the farewell.
    pub fn closing(&mut self, wire: &mut Vec<u8>) {
        self.inner.send_close_notify();
        // A farewell is a courtesy; the connection ends either way.
        let _ = self.flush(wire);
    }

    /// Whether the handshake is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.inner.is_handshaking()
    }

    /// The certificate of the other end, once the handshake is over.
    #[must_use]
    pub fn peer(&self) -> Option<PeerCertificate> {
        let first = self.inner.peer_certificates()?.first()?;
        Some(PeerCertificate { der: first.clone().into_owned(), nodes: Mutex::default() })
    }

    fn flush(&mut self, wire: &mut Vec<u8>) -> Result<(), TlsError> {
        while self.inner.wants_write() {
            self.inner.write_tls(wire).map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Whose certificate the other end has shown.
#[derive(Debug)]
pub struct PeerCertificate {
    der: CertificateDer<'static>,
    /// Cluster and node of names that were found in it.
    nodes: Mutex<Vec<(i32, i32)>>,
}

impl PeerCertificate {
    /// Whether it is that of a node: it has the DNS name `nodeN.clusterC.tandem`.
    #[must_use]
    pub fn is_node(&self, cluster: i32, node: i32) -> bool {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.contains(&(cluster, node)) {
            return true;
        }
        let Ok(name) = ServerName::try_from(format!("node{node}.cluster{cluster}.tandem")) else { return false };
        let Ok(certificate) = webpki::EndEntityCert::try_from(&self.der) else { return false };
        let is_node = certificate.verify_is_valid_for_subject_name(&name).is_ok();
        if is_node && nodes.len() < NODES_MAX {
            nodes.push((cluster, node));
        }
        is_node
    }

    /// A node of that cluster that [`PeerCertificate::is_node`] has found in it.
    #[must_use]
    pub fn known_node(&self, cluster: i32) -> Option<i32> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().find(|(known, _)| *known == cluster).map(|(_, node)| *node)
    }
}
