//! Gate: a run of a residential request route of 60 statements (`benches/residential.cfg`) that does not wait makes at most
//! five allocations. Alone in its file, because the counting allocator is global.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(unsafe_code, reason = "a counting global allocator cannot be written without it; test only")]

#[path = "../src/test_rig/mod.rs"]
mod test_rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tandem_module::run;
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use test_rig::Rig;

/// Allocations one run may make.
const ALLOCATIONS_MAX: usize = 5;

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

#[test]
fn a_residential_route_makes_few_allocations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/script-eval-messages.json");
    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let message = all["INV"].as_str().unwrap();
    let rig = Rig::script(include_str!("../benches/residential.cfg"));
    let route = rig.node.program().main_route().unwrap();
    let mut last = 0;
    for _ in 0..10 {
        let context = rig.context(message);
        let before = count();
        let after = |context: Box<tandem_module::context::Context>, _| {
            // The route went all the way.
            assert_eq!(
                context.edits.target.dst_uri.as_ref().map(|uri| uri.to_str().into_owned()).as_deref(),
                Some("sip:192.0.2.50:5080")
            );
            context.recycle();
        };
        let own = count();
        assert_eq!(own, before);
        run::start(context, route, StartOptions::new(RouteKind::Request), Box::new(after));
        // What the check above allocates is not the route's: one text.
        last = count() - before - 1;
    }
    println!("{last} allocations");
    assert!(last <= ALLOCATIONS_MAX, "{last} allocations");
}
