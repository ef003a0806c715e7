//! Where the inputs of an asynchronous stream come from, and how such a stream waits for a permit.

use super::super::feeder::Feeder;
use crate::client::Hold;
use crate::client::reactor::PermitWait;
use crate::error::CallError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// How many inputs may be refused one after the other before the stream yields.
const REFUSED_AT_ONCE: u32 = 32;

/// An input, and whether a permit was kept for it.
type Permitted<Item> = (Item, Result<(), CallError>);

/// The inputs of an asynchronous stream.
pub(super) struct AsyncInlet<'s, S: futures_core::Stream> {
    /// `None` at the end.
    inputs: Option<Pin<Box<S>>>,
    /// An input that has no permit yet.
    input: Option<S::Item>,
    in_line: Option<PermitWait<'s>>,
    /// How many inputs were refused since the stream last waited.
    pub(super) refused: u32,
}

impl<'s, S: futures_core::Stream> AsyncInlet<'s, S> {
    pub(super) fn new(inputs: S) -> Self {
        Self { inputs: Some(Box::pin(inputs)), input: None, in_line: None, refused: 0 }
    }

    /// Whether no input was taken from the source, which has not ended.
    pub(super) fn is_new(&self) -> bool {
        self.inputs.is_some() && self.input.is_none()
    }

    /// Whether the source has ended.
    pub(super) fn is_over(&self) -> bool {
        self.inputs.is_none()
    }

    /// `Pending` if the stream has been ready for so long that it yields now; its task is woken again.
    pub(super) fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.refused < REFUSED_AT_ONCE {
            return Poll::Ready(());
        }
        self.refused = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next input: the one that had no permit before, or one from the source; `None` at the end.
    pub(super) fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if let Some(input) = self.input.take() {
            return Poll::Ready(Some(input));
        }
        let Some(inputs) = &mut self.inputs else { return Poll::Ready(None) };
        let input = ready!(inputs.as_mut().poll_next(context));
        if input.is_none() {
            drop(self.inputs.take());
        }
        Poll::Ready(input)
    }

    /// Puts an input back that has no permit.
    pub(super) fn put_back(&mut self, input: S::Item) {
        self.input = Some(input);
    }

    /// Called when the stream has nothing in progress: waits for a permit for the input that was put back. Returns it,
    /// with the error if none came; `None` at the end. Without such an input the source has woken the task, or will.
    pub(super) fn poll_permit(
        &mut self,
        core: &Hold<'s>,
        feeder: &mut Feeder,
        context: &Context<'_>,
    ) -> Poll<Option<Permitted<S::Item>>> {
        if self.input.is_none() {
            return if self.is_over() { Poll::Ready(None) } else { Poll::Pending };
        }
        let permit = ready!(self.poll_line(core, feeder, context));
        Poll::Ready(self.input.take().map(|input| (input, permit)))
    }

    fn poll_line(
        &mut self,
        core: &Hold<'s>,
        feeder: &mut Feeder,
        context: &Context<'_>,
    ) -> Poll<Result<(), CallError>> {
        let in_line = match &mut self.in_line {
            Some(in_line) => in_line,
            none => {
                let begun = Instant::now();
                let until = begun.checked_add(feeder.options.timeout);
                none.insert(PermitWait::begin(core.clone(), begun, until)?)
            }
        };
        let permit = ready!(in_line.poll(context));
        self.in_line = None;
        Poll::Ready(permit.map(|(id, _waited)| feeder.keep(id)))
    }
}
