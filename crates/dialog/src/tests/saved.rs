//! Dialogs taken out and put back; numbers of passing requests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{Bench, UNIX};
use crate::{
    DialogId, DialogState, DialogValue, Direction, Method, Party, RestoreError, SavedDialog, Values, ValuesForm,
    WithinRequest, dialog_flags,
};

fn saved_call(bench: &Bench) -> SavedDialog {
    let id = bench.create("saved-1", dialog_flags::BYE_ON_TIMEOUT);
    bench.reply(id, 200, "phone");
    bench
        .table
        .with_dialog(id, |dialog| {
            dialog.values.set(b"who", "al|ice").unwrap();
            dialog.values.set(b"n", 7).unwrap();
            dialog.set_lifetime(100, bench.now.monotonic);
            dialog.saved(bench.now).unwrap()
        })
        .unwrap()
}

#[test]
fn a_call_goes_on_in_another_table_and_ends_when_its_time_is_over() {
    let saved = saved_call(&Bench::new());
    assert_eq!((saved.started_at, saved.expires_at), (UNIX, UNIX + 100));
    let mut other = Bench::new();
    other.pass_secs(60);
    assert_eq!(other.table.restore(saved.clone(), other.now), Ok(()));
    let totals = other.table.totals();
    assert_eq!((totals.active, totals.processed, totals.held), (1, 0, 1));
    let same = other.table.with_dialog(saved.id, |dialog| dialog.saved(other.now)).unwrap().unwrap();
    assert_eq!(same, saved);
    other.pass_secs(41);
    let served = other.table.handle_timeout(other.now, 10);
    assert_eq!(served.len(), 1);
    assert!(served[0].events.iter().any(|event| format!("{event:?}").contains("SendBye(Caller)")), "{served:?}");
    assert_eq!(other.table.totals().expired, 1);
}

#[test]
fn what_cannot_be_followed_again_is_refused() {
    let bench = Bench::new();
    let saved = saved_call(&bench);
    let other = Bench::new();
    let restore = |saved: SavedDialog| other.table.restore(saved, other.now);
    let wrong = DialogId { entry: saved.id.entry ^ 1, ..saved.id };
    assert_eq!(restore(SavedDialog { id: wrong, ..saved.clone() }), Err(RestoreError::WrongSlot));
    assert_eq!(restore(SavedDialog { state: DialogState::Early, ..saved.clone() }), Err(RestoreError::NotActive));
    let untagged = SavedDialog { caller: crate::Leg::default(), ..saved.clone() };
    assert_eq!(restore(untagged), Err(RestoreError::Unusable));
    assert_eq!(bench.table.restore(saved.clone(), bench.now), Ok(()), "the same state is taken over");
    bench.table.with_dialog(saved.id, |dialog| dialog.end(crate::EndReason::MiTermination, bench.now));
    assert_eq!(bench.table.restore(saved, bench.now), Err(RestoreError::Known));
    assert_eq!(bench.table.totals().active, 0);
}

#[test]
fn values_are_read_in_both_forms() {
    let mut values = Values::default();
    values.set(b"a#b", "x|y").unwrap();
    values.set(b"n", -3).unwrap();
    assert_eq!(values.to_text(ValuesForm::Untyped), br"a\#b#x\|y|n#-3|");
    let mut old = Values::default();
    old.merge_text(&values.to_text(ValuesForm::Untyped)).unwrap();
    assert_eq!(old.get(b"n"), Some(&DialogValue::from("-3")));
    assert_eq!(old.get(b"a#b"), Some(&DialogValue::from("x|y")));
}

#[test]
fn requests_that_pass_get_numbers_behind_those_generated() {
    let bench = Bench::new();
    let id = bench.create("seq-1", 0);
    bench.reply(id, 200, "phone");
    let request = |method, cseq| WithinRequest {
        method,
        cseq,
        direction: Direction::Downstream,
        destination_leg: 1,
        contact: b"",
    };
    bench.table.with_dialog(id, |dialog| {
        assert_eq!(dialog.renumber(&request(Method::Other, 20)), None, "nothing was generated yet");
        let first = dialog.sequential(Party::Callee).unwrap().cseq;
        assert_eq!(dialog.renumber(&request(Method::Invite, first)), Some(first + 1));
        assert_eq!(dialog.renumber(&request(Method::Ack, first)), Some(first + 1));
        assert_eq!(dialog.renumber(&request(Method::Ack, first + 5)), None);
        assert_eq!(dialog.renumber(&request(Method::Bye, first + 9)), None, "far ahead already");
        assert_eq!(dialog.renumber(&request(Method::Bye, first + 9)), Some(first + 10));
        assert_eq!(dialog.shift_cseq(1, 2), Some(first + 12));
        assert_eq!(dialog.shift_cseq(9, 2), None);
    });
}
