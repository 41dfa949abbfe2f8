#![allow(clippy::unwrap_used)]
use super::*;

const ONE: &[u8] = b"MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nContent-Length : 5\r\n\r\nhello";
const TWO: &[u8] = b"OPTIONS sip:a@b SIP/2.0\nl: \n 0\nSubject: Content-Length: 7\n\n";

fn drain(framer: &mut StreamFramer) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = framer.next() {
        frames.push(frame.unwrap());
    }
    frames
}

fn message(text: &'static [u8]) -> Frame {
    Frame::Message(Bytes::from_static(text))
}

#[test]
fn a_stream_gives_the_same_frames_wherever_it_is_split() {
    let stream = [b"\r\n", ONE, b"\r\n\r\n", TWO, ONE, b"\r\n\r\n"].concat();
    let want = vec![message(ONE), Frame::KeepAlivePing, message(TWO), message(ONE), Frame::KeepAlivePing];
    for first in 0..=stream.len() {
        for second in [first, (first + 1).min(stream.len()), stream.len()] {
            let mut framer = StreamFramer::default();
            let mut got = Vec::new();
            for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                framer.push(part);
                got.extend(drain(&mut framer));
            }
            assert_eq!(got, want, "split at {first} and {second}");
            assert_eq!(framer.buffered(), 0);
        }
    }
}

#[test]
fn a_stream_fed_byte_by_byte_gives_the_same_frames() {
    let mut framer = StreamFramer::default();
    let mut got = Vec::new();
    for byte in [ONE, TWO, ONE].concat() {
        framer.push(&[byte]);
        got.extend(drain(&mut framer));
    }
    assert_eq!(got, [message(ONE), message(TWO), message(ONE)]);
}

#[test]
fn line_ends_are_pongs_where_we_ping() {
    let mut framer = StreamFramer::new(FramerLimits { expects_pong: true, ..FramerLimits::DEFAULT });
    framer.push(b"\r\n\r\n");
    assert_eq!(drain(&mut framer), [Frame::KeepAlivePong, Frame::KeepAlivePong]);
}

fn error_of(text: &[u8], limits: FramerLimits) -> FrameError {
    let mut framer = StreamFramer::new(limits);
    framer.push(text);
    let error = framer.next().unwrap().unwrap_err();
    framer.push(ONE);
    assert_eq!(framer.next(), Some(Err(error)), "an error is final");
    error
}

#[test]
fn streams_without_a_sound_length_end() {
    let limits = FramerLimits::DEFAULT;
    assert_eq!(error_of(b"A b SIP/2.0\r\nTo: x\r\n\r\n", limits), FrameError::MissingContentLength);
    assert_eq!(error_of(b"A b SIP/2.0\r\nl: -1\r\n\r\n", limits), FrameError::BadContentLength);
    assert_eq!(error_of(b"A b SIP/2.0\r\nl: 99999999999\r\n\r\n", limits), FrameError::BadContentLength);
    assert_eq!(error_of(b"A b SIP/2.0\r\nl: 1\r\nl: 2\r\n\r\n", limits), FrameError::ConflictingContentLength);
    assert_eq!(
        error_of(b"A b SIP/2.0\r\nl: 70000\r\n\r\n", limits),
        FrameError::BodyTooLarge { size: 70_000, max: 65_535 }
    );
}

#[test]
fn endless_headers_end_the_stream_at_the_limit() {
    let limits = FramerLimits { head_bytes_max: 100, ..FramerLimits::DEFAULT };
    assert_eq!(error_of(&[b'a'; 101], limits), FrameError::HeadTooLarge { max: 100 });
    let lines = b"X: 1\r\n".repeat(20);
    assert_eq!(error_of(&lines, limits), FrameError::HeadTooLarge { max: 100 });
}

#[test]
fn repeated_equal_lengths_are_harmless() {
    let mut framer = StreamFramer::default();
    framer.push(b"A b SIP/2.0\r\nl: 1\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(drain(&mut framer).len(), 1);
}

#[test]
fn stray_carriage_returns_do_not_block_the_stream() {
    let mut framer = StreamFramer::default();
    framer.push(b"\r\r\n\r");
    framer.push(ONE);
    assert_eq!(drain(&mut framer), [message(ONE)]);
}
