//! Why a link is closed, in words for the operator. Holds no secret.

/// A link cannot go on; the connection has to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Plain BIN from a peer that is not named as legacy.
    #[error("plain BIN is refused: give that node the cluster secret, or name it in cluster_legacy if it is OpenSIPS")]
    PlainRefused,
    /// A version of the handshake that this program does not know.
    #[error("the peer speaks version {0} of the link handshake, this node speaks {ours}", ours = crate::hello::VERSION)]
    Version(u8),
    /// A hello that cannot be read.
    #[error("the hello of the peer is malformed: {0}")]
    Hello(&'static str),
    /// No such secret here.
    #[error(
        "the peer used secret \"{id}\" of cluster {cluster}, which is not known here: check cluster_secret on both nodes"
    )]
    UnknownSecret {
        /// Cluster named by the peer.
        cluster: i32,
        /// Id of the secret.
        id: String,
    },
    /// The opener does not have the secret it names, or the bytes were changed.
    #[error("the peer does not have secret \"{0}\" as it is here: the same id with another text")]
    NotProven(String),
    /// The acceptor does not have the secret.
    #[error("the answer of the peer does not prove secret \"{0}\": the same id with another text?")]
    AnswerNotProven(String),
    /// The other end is another node than the one that was meant.
    #[error("the peer is node {found}, not node {expected}: check the url of node {expected}")]
    WrongNode {
        /// The node meant.
        expected: i32,
        /// The node that answered.
        found: i32,
    },
    /// The other end claims the id of this node.
    #[error(
        "the peer calls itself node {0}, which is this node: two nodes have the same my_node_id, or an url leads here"
    )]
    OwnId(i32),
    /// The gate refused.
    #[error("{0}")]
    Refused(String),
    /// A frame does not decrypt: changed, repeated, left out or out of order.
    #[error("a frame was changed, repeated or lost on the way")]
    Tampered,
    /// A frame with a length or type that is none.
    #[error("a frame is malformed")]
    Frame,
    /// Too much waits for the handshake.
    #[error("more than {max} bytes wait for the handshake", max = crate::link::WAITING_BYTES_MAX)]
    WaitingFull,
    /// The cryptography failed; a defect of this program.
    #[error("internal error of the link layer: {0}")]
    Internal(&'static str),
}
