//! Gate: parsing a 1.2 kB INVITE into a recycled message and reading its six transaction headers allocates nothing.
//! Alone in its file, because the counting allocator is global.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "a counting global allocator cannot be written without it; test only")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use tandem_sip::{Message, Method, TransactionKey};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() -> usize {
    COUNT.with(Cell::get)
}

fn bump() {
    // The thread-local is gone while its thread ends; such allocations are nobody's.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed on to the system allocator unchanged; counting touches no allocator state.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        bump();
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        bump();
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const INVITE: &[u8] = include_bytes!("fixtures/invite.sip");

#[test]
fn the_counter_counts() {
    let before = count();
    std::hint::black_box(Box::new(1u64));
    assert!(count() > before);
}

#[test]
fn parsing_an_invite_and_reading_its_transaction_headers_allocates_nothing() {
    assert!((1_190..1_300).contains(&INVITE.len()), "{} bytes", INVITE.len());
    let buf = Bytes::from_static(INVITE);
    let mut message = Message::default();
    message.parse_into(buf.clone()).unwrap();
    let before = count();
    for _ in 0..10 {
        message.parse_into(buf.clone()).unwrap();
        let via = message.top_via().unwrap();
        assert_eq!(via.branch, Some(&b"z9hG4bK-524287-1---f3b1c0de5a7e9d21"[..]));
        assert!(message.from().unwrap().tag().is_some());
        assert!(message.to().unwrap().tag().is_none());
        assert_eq!(message.cseq().unwrap().1, Method::Invite);
        assert!(!message.call_id().unwrap().is_empty());
        assert_eq!(message.max_forwards().unwrap(), Some(70));
        assert!(!TransactionKey::for_request(&message).unwrap().as_bytes().is_empty());
    }
    assert_eq!(count() - before, 0);
}
