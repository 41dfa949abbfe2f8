//! The state machine of one link. Knows nothing of sockets, of BIN packets or of what nodes may do.
//!
//! After the hello both handshake messages and all frames are a u16 length (big-endian) and that many bytes. The plaintext
//! of a frame begins with its kind: 0 data, 1 confirmation (the opener's first frame; only with it the opener has proven
//! that it is alive and no recording), 2 grant (the secrets, on a link with [`Purpose::Join`]).

use std::fmt;

use snow::{Builder, HandshakeState, TransportState};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::LinkError;
use crate::hello::{Hello, MAGIC, Purpose};
use crate::secret::Secret;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Longest handshake message, bytes; a longer one is refused before it is kept.
pub const HANDSHAKE_BYTES_MAX: usize = 256;
/// Bytes of plaintext in one frame.
pub const PLAIN_FRAME_MAX: usize = 65_535 - TAG - 1;
/// Bytes that may wait for the end of the handshake.
pub const WAITING_BYTES_MAX: usize = 4 << 20;

const TAG: usize = 16;
const LENGTH: usize = 2;
const DATA: u8 = 0;
const CONFIRM: u8 = 1;
const GRANT: u8 = 2;

/// Decides who may link; asked by accepting ends.
pub trait Gate: Send {
    /// The secret that the hello names.
    ///
    /// # Errors
    /// [`LinkError::UnknownSecret`], or why a token is not good.
    fn secret(&mut self, hello: &Hello) -> Result<Secret, LinkError>;

    /// Whether the peer may speak plain BIN.
    ///
    /// # Errors
    /// [`LinkError::PlainRefused`].
    fn plain(&mut self) -> Result<(), LinkError>;

    /// Called once when the opener has proven that it has the secret and is there: the last word. For
    /// [`Purpose::Join`] what to hand out.
    ///
    /// # Errors
    /// Why it may not link all the same (the token was used meanwhile).
    fn proven(&mut self, hello: &Hello, node: i32) -> Result<Option<Zeroizing<String>>, LinkError>;
}

/// Where a link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The handshake is under way.
    Handshaking,
    /// The peer was let in without proof.
    Plain,
    /// The peer has proven the secret.
    Proven {
        /// Its node id.
        node: i32,
        /// Cluster of the secret; 0 for all.
        cluster: i32,
        /// Id of the secret.
        secret_id: String,
        /// What the link is for.
        purpose: Purpose,
    },
    /// It cannot be used any more.
    Failed,
}

enum State {
    /// Opener, before the connection is up.
    Opening(Box<HandshakeState>),
    /// Opener, waiting for the answer.
    Opened(Box<HandshakeState>),
    /// Acceptor, waiting for the first bytes.
    Accepting(Box<dyn Gate>),
    /// Acceptor, hello read.
    Greeted(Box<dyn Gate>, Box<HandshakeState>),
    /// Acceptor, waiting for the confirmation.
    Answered(Box<dyn Gate>, Box<TransportState>),
    Ready(Box<TransportState>),
    Plain,
    Failed,
}

/// One end of a link.
pub struct Link {
    state: State,
    own: i32,
    /// Opener: the node meant, when it is known. Acceptor: 0, then the node that was claimed.
    peer: i32,
    hello: Option<Hello>,
    inbox: Vec<u8>,
    /// Messages to send when the handshake is done, each with its length.
    waiting: Vec<u8>,
    granted: Option<Zeroizing<String>>,
    /// Plaintext of the frame at hand, kept for the next one.
    scratch: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("status", &self.status()).finish_non_exhaustive()
    }
}

fn builder<'a>() -> Result<Builder<'a>, LinkError> {
    Ok(Builder::new(PATTERN.parse().map_err(|_| LinkError::Internal("pattern"))?))
}

fn handshake(secret: &Secret, prologue: &[u8], is_opener: bool) -> Result<Box<HandshakeState>, LinkError> {
    let failed = |_| LinkError::Internal("set-up of the handshake");
    let builder = builder()?.psk(0, secret.key()).map_err(failed)?.prologue(prologue).map_err(failed)?;
    let built = if is_opener { builder.build_initiator() } else { builder.build_responder() };
    built.map(Box::new).map_err(failed)
}

fn transport(handshake: Box<HandshakeState>) -> Result<Box<TransportState>, LinkError> {
    handshake.into_transport_mode().map(Box::new).map_err(|_| LinkError::Internal("end of the handshake"))
}

impl Link {
    /// The end that opened the connection: node `own`, towards node `peer` (0 when its id is not known), with `secret`.
    ///
    /// # Errors
    /// Only when the cryptography cannot be set up.
    pub fn open(hello: Hello, secret: &Secret, own: i32, peer: i32) -> Result<Link, LinkError> {
        let handshake = handshake(secret, &hello.encode(), true)?;
        Ok(Link::new(State::Opening(handshake), own, peer, Some(hello)))
    }

    /// The end that accepted the connection.
    #[must_use]
    pub fn accept(gate: Box<dyn Gate>, own: i32) -> Link {
        Link::new(State::Accepting(gate), own, 0, None)
    }

    fn new(state: State, own: i32, peer: i32, hello: Option<Hello>) -> Link {
        Link {
            state,
            own,
            peer,
            hello,
            inbox: Vec::new(),
            waiting: Vec::new(),
            granted: None,
            scratch: Zeroizing::default(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match (&self.state, &self.hello) {
            (State::Plain, _) => Status::Plain,
            (State::Ready(_), Some(hello)) => Status::Proven {
                node: self.peer,
                cluster: hello.cluster,
                secret_id: hello.secret_id.clone(),
                purpose: hello.purpose,
            },
            (State::Failed, _) => Status::Failed,
            _ => Status::Handshaking,
        }
    }

    /// Whether the handshake is over, one way or the other.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Ready(_) | State::Plain | State::Failed)
    }

    /// The node the other end is, or claims to be; 0 while that is not known.
    #[must_use]
    pub fn peer(&self) -> i32 {
        self.peer
    }

    /// What the other end handed out for the token, once.
    pub fn take_grant(&mut self) -> Option<Zeroizing<String>> {
        self.granted.take()
    }

    /// The connection is up: the opener speaks.
    ///
    /// # Errors
    /// Only when the cryptography fails.
    pub fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), LinkError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Opening(mut handshake) => {
                let Some(hello) = &self.hello else { return Err(LinkError::Internal("no hello")) };
                wire.extend_from_slice(&hello.encode());
                let ids = [self.own.to_be_bytes(), self.peer.to_be_bytes()].concat();
                write_handshake(&mut handshake, &ids, wire)?;
                self.state = State::Opened(handshake);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// Takes a message to send; it waits for the handshake.
    ///
    /// # Errors
    /// When too much waits, or the link has failed.
    pub fn send(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), LinkError> {
        match &mut self.state {
            State::Plain => wire.extend_from_slice(message),
            State::Ready(transport) => write_message(transport, message, &mut self.scratch, wire)?,
            State::Failed => return Err(LinkError::Internal("the link has failed")),
            _ => {
                if self.waiting.len() + message.len() + 4 > WAITING_BYTES_MAX {
                    return Err(LinkError::WaitingFull);
                }
                self.waiting.extend_from_slice(&(message.len() as u32).to_be_bytes());
                self.waiting.extend_from_slice(message);
            }
        }
        Ok(())
    }

    /// Takes bytes from the wire; appends what they mean to `plain` and what must be answered to `wire`.
    ///
    /// # Errors
    /// Why the connection must be closed. Nothing of a frame that fails reaches `plain`.
    pub fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), LinkError> {
        if matches!(self.state, State::Plain) {
            plain.extend_from_slice(input);
            return Ok(());
        }
        self.inbox.extend_from_slice(input);
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        let result = loop {
            match self.step(inbox.get(at..).unwrap_or_default(), plain, wire) {
                Ok(0) => break Ok(()),
                Ok(taken) => at += taken,
                Err(error) => {
                    self.state = State::Failed;
                    self.waiting = Vec::new();
                    break Err(error);
                }
            }
        };
        inbox.drain(..at.min(inbox.len()));
        self.inbox = inbox;
        result
    }

    /// Works off one unit at the beginning of `bytes`; how many bytes it was, 0 when more are needed.
    fn step(&mut self, bytes: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<usize, LinkError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Opening(_) => Err(LinkError::Internal("bytes before the connection")),
            State::Accepting(gate) => self.take_hello(gate, bytes, plain, wire),
            State::Greeted(gate, handshake) => self.take_first(gate, handshake, bytes, wire),
            State::Opened(handshake) => self.take_answer(handshake, bytes, wire),
            State::Answered(gate, transport) => self.take_confirmation(gate, transport, bytes, wire),
            State::Ready(mut transport) => {
                let taken = self.take_frame(&mut transport, bytes, plain)?;
                self.state = State::Ready(transport);
                Ok(taken)
            }
            State::Plain => {
                self.state = State::Plain;
                plain.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            State::Failed => Err(LinkError::Internal("the link has failed")),
        }
    }

    fn take_hello(
        &mut self,
        mut gate: Box<dyn Gate>,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes.get(..known) != MAGIC.get(..known) {
            gate.plain()?;
            self.state = State::Plain;
            plain.extend_from_slice(bytes);
            for message in waiting(&std::mem::take(&mut self.waiting)) {
                wire.extend_from_slice(message);
            }
            return Ok(bytes.len());
        }
        let Some((hello, taken)) = Hello::decode(bytes)? else {
            self.state = State::Accepting(gate);
            return Ok(0);
        };
        let secret = gate.secret(&hello)?;
        let handshake = handshake(&secret, bytes.get(..taken).unwrap_or_default(), false)?;
        self.hello = Some(hello);
        self.state = State::Greeted(gate, handshake);
        Ok(taken)
    }

    fn secret_id(&self) -> String {
        self.hello.as_ref().map(|hello| hello.secret_id.clone()).unwrap_or_default()
    }

    fn take_first(
        &mut self,
        gate: Box<dyn Gate>,
        mut handshake: Box<HandshakeState>,
        bytes: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        let Some(message) = framed(bytes, HANDSHAKE_BYTES_MAX)? else {
            self.state = State::Greeted(gate, handshake);
            return Ok(0);
        };
        let mut payload = [0; HANDSHAKE_BYTES_MAX];
        let read = handshake.read_message(message, &mut payload);
        let read = read.map_err(|_| LinkError::NotProven(self.secret_id()))?;
        let [n0, n1, n2, n3, m0, m1, m2, m3] = *payload.get(..read).unwrap_or_default() else {
            return Err(LinkError::Frame);
        };
        let claimed = i32::from_be_bytes([n0, n1, n2, n3]);
        let meant = i32::from_be_bytes([m0, m1, m2, m3]);
        if claimed == self.own {
            return Err(LinkError::OwnId(claimed));
        }
        if meant != 0 && meant != self.own {
            return Err(LinkError::WrongNode { expected: meant, found: self.own });
        }
        self.peer = claimed;
        write_handshake(&mut handshake, &self.own.to_be_bytes(), wire)?;
        self.state = State::Answered(gate, transport(handshake)?);
        Ok(LENGTH + message.len())
    }

    fn take_answer(
        &mut self,
        mut handshake: Box<HandshakeState>,
        bytes: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        let Some(message) = framed(bytes, HANDSHAKE_BYTES_MAX)? else {
            self.state = State::Opened(handshake);
            return Ok(0);
        };
        let mut payload = [0; HANDSHAKE_BYTES_MAX];
        let read = handshake.read_message(message, &mut payload);
        let read = read.map_err(|_| LinkError::AnswerNotProven(self.secret_id()))?;
        let found = payload.get(..read).and_then(|ids| <[u8; 4]>::try_from(ids).ok());
        let found = found.map(i32::from_be_bytes).ok_or(LinkError::Frame)?;
        if found == self.own {
            return Err(LinkError::OwnId(found));
        }
        if self.peer != 0 && found != self.peer {
            return Err(LinkError::WrongNode { expected: self.peer, found });
        }
        self.peer = found;
        let mut transport = transport(handshake)?;
        write_frame(&mut transport, CONFIRM, &[], &mut self.scratch, wire)?;
        self.become_ready(transport, wire)?;
        Ok(LENGTH + message.len())
    }

    fn take_confirmation(
        &mut self,
        mut gate: Box<dyn Gate>,
        mut transport: Box<TransportState>,
        bytes: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        let Some(message) = framed(bytes, usize::from(u16::MAX))? else {
            self.state = State::Answered(gate, transport);
            return Ok(0);
        };
        let (kind, _) = read_frame(&mut transport, message, &mut self.scratch)?;
        if kind != CONFIRM {
            return Err(LinkError::Frame);
        }
        let Some(hello) = &self.hello else { return Err(LinkError::Internal("no hello")) };
        if let Some(grant) = gate.proven(hello, self.peer)? {
            write_frame(&mut transport, GRANT, grant.as_bytes(), &mut self.scratch, wire)?;
            // Secrets stay no longer than they must.
            self.scratch = Zeroizing::default();
        }
        self.become_ready(transport, wire)?;
        Ok(LENGTH + message.len())
    }

    /// What waited leaves; on a link for joining nothing but secrets may.
    fn become_ready(&mut self, mut transport: Box<TransportState>, wire: &mut Vec<u8>) -> Result<(), LinkError> {
        let kept = std::mem::take(&mut self.waiting);
        if self.is_for_packets() {
            for message in waiting(&kept) {
                write_message(&mut transport, message, &mut self.scratch, wire)?;
            }
        }
        self.state = State::Ready(transport);
        Ok(())
    }

    fn is_for_packets(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.purpose == Purpose::Member)
    }

    fn take_frame(
        &mut self,
        transport: &mut TransportState,
        bytes: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<usize, LinkError> {
        let Some(message) = framed(bytes, usize::from(u16::MAX))? else { return Ok(0) };
        let is_for_packets = self.is_for_packets();
        let (kind, data) = read_frame(transport, message, &mut self.scratch)?;
        match kind {
            DATA if is_for_packets => plain.extend_from_slice(data),
            // Packets on a link for joining: they come before the peer knows better, and are not wanted.
            DATA => {}
            GRANT if !is_for_packets => {
                let text = std::str::from_utf8(data).map_err(|_| LinkError::Frame)?;
                self.granted = Some(Zeroizing::new(text.to_owned()));
                self.scratch = Zeroizing::default();
            }
            _ => return Err(LinkError::Frame),
        }
        Ok(LENGTH + message.len())
    }
}

/// Messages as they were kept.
fn waiting(mut kept: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = kept.split_first_chunk::<4>()?;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        kept = rest;
        Some(message)
    })
}

/// The unit at the beginning of `bytes`, without its length; `None` while it is not complete.
fn framed(bytes: &[u8], max: usize) -> Result<Option<&[u8]>, LinkError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < TAG || length > max {
        return Err(LinkError::Frame);
    }
    Ok(rest.get(..length))
}

fn write_handshake(handshake: &mut HandshakeState, payload: &[u8], wire: &mut Vec<u8>) -> Result<(), LinkError> {
    let mut message = [0; HANDSHAKE_BYTES_MAX];
    let written = handshake.write_message(payload, &mut message);
    let written = written.map_err(|_| LinkError::Internal("writing the handshake"))?;
    wire.extend_from_slice(&(written as u16).to_be_bytes());
    wire.extend_from_slice(message.get(..written).unwrap_or_default());
    Ok(())
}

fn write_message(
    transport: &mut TransportState,
    message: &[u8],
    scratch: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<(), LinkError> {
    message.chunks(PLAIN_FRAME_MAX).try_for_each(|part| write_frame(transport, DATA, part, scratch, wire))
}

fn write_frame(
    transport: &mut TransportState,
    kind: u8,
    data: &[u8],
    scratch: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<(), LinkError> {
    let failed = LinkError::Internal("encrypting");
    let length = 1 + data.len() + TAG;
    let Ok(prefix) = u16::try_from(length) else { return Err(failed) };
    // Grown by hand, so that no plaintext is left behind where it was.
    grow(scratch, 1 + data.len());
    scratch.clear();
    scratch.push(kind);
    scratch.extend_from_slice(data);
    wire.extend_from_slice(&prefix.to_be_bytes());
    let at = wire.len();
    wire.resize(at + length, 0);
    let Some(room) = wire.get_mut(at..) else { return Err(failed) };
    match transport.write_message(scratch, room) {
        Ok(written) if written == length => Ok(()),
        _ => Err(failed),
    }
}

/// Room for `length` bytes; what a smaller buffer held is overwritten.
fn grow(scratch: &mut Vec<u8>, length: usize) {
    if scratch.capacity() < length {
        let larger = Vec::with_capacity(length.next_power_of_two());
        std::mem::replace(scratch, larger).zeroize();
    }
}

/// Kind and data of a frame, in `scratch`.
fn read_frame<'a>(
    transport: &mut TransportState,
    message: &[u8],
    scratch: &'a mut Vec<u8>,
) -> Result<(u8, &'a [u8]), LinkError> {
    grow(scratch, message.len());
    scratch.resize(message.len(), 0);
    let length = transport.read_message(message, scratch).map_err(|_| LinkError::Tampered)?;
    scratch.truncate(length);
    let (kind, data) = scratch.split_first().ok_or(LinkError::Frame)?;
    Ok((*kind, data))
}
