//! Where the inputs of a stream come from.

use crate::error::BoxError;
use crate::wire::payload::Payload;
use std::collections::VecDeque;
use std::iter::Fuse;
use std::marker::PhantomData;

/// The source of a stream's inputs: the items that the stream pulls, and the input made from each. Implemented by the
/// sources of [`Server::stream`](crate::Server::stream) and its variants; sealed.
pub trait Source: sealed::Sealed {
    /// The iterator's items.
    type Item;
    /// The server's input.
    type In: Payload;

    /// The next item.
    #[doc(hidden)]
    fn next(&mut self) -> Option<Self::Item>;

    /// Calls `send` with the item's input, or with the error why there is none. User code runs before `send` and after
    /// it.
    #[doc(hidden)]
    fn prepare(&mut self, item: &Self::Item, send: impl FnOnce(Result<&Self::In, BoxError>));
}

mod sealed {
    pub trait Sealed {}
    impl<I: Iterator> Sealed for super::Inputs<I> {}
    impl<I: Iterator, F, In> Sealed for super::Prepared<I, F, In> {}
    impl<S: super::Source> Sealed for super::Kept<S> {}
    impl<In> Sealed for super::Given<In> {}
}

/// An iterator of inputs.
#[derive(Debug)]
pub struct Inputs<I: Iterator>(pub(crate) Fuse<I>);

impl<I: Iterator<Item: Payload>> Source for Inputs<I> {
    type Item = I::Item;
    type In = I::Item;

    #[inline]
    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }

    #[inline]
    fn prepare(&mut self, item: &I::Item, send: impl FnOnce(Result<&I::Item, BoxError>)) {
        send(Ok(item));
    }
}

/// One given input.
#[derive(Debug)]
pub(super) struct Given<In>(pub(super) Option<In>);

impl<In: Payload> Source for Given<In> {
    type Item = In;
    type In = In;

    #[inline]
    fn next(&mut self) -> Option<In> {
        self.0.take()
    }

    #[inline]
    fn prepare(&mut self, item: &In, send: impl FnOnce(Result<&In, BoxError>)) {
        send(Ok(item));
    }
}

/// Where an asynchronous stream puts the inputs that it has polled.
pub(super) trait Intake<In: Payload>: Source<In = In> {
    /// What is kept of an input until its outcome is returned.
    type Kept;

    /// Takes an input, for the next pull.
    fn give(&mut self, input: In);

    /// Takes an input that is not sent; returns it if it is not kept.
    fn refuse(&mut self, input: In) -> Option<In>;

    /// What is kept of the oldest input, whose outcome has been taken.
    fn first(&mut self) -> Self::Kept;
}

impl<In: Payload> Intake<In> for Given<In> {
    type Kept = ();

    fn give(&mut self, input: In) {
        self.0 = Some(input);
    }

    fn refuse(&mut self, input: In) -> Option<In> {
        Some(input)
    }

    fn first(&mut self) {}
}

impl<In: Payload> Intake<In> for Kept<Given<In>> {
    type Kept = In;

    fn give(&mut self, input: In) {
        self.source.give(input);
    }

    fn refuse(&mut self, input: In) -> Option<In> {
        self.items.push_back(input);
        None
    }

    fn first(&mut self) -> In {
        Kept::first(self)
    }
}

/// An iterator of any items, and the function that makes inputs from them.
pub struct Prepared<I: Iterator, F, In> {
    pub(crate) items: Fuse<I>,
    pub(crate) prepare: F,
    pub(crate) input: PhantomData<fn() -> In>,
}

impl<I: Iterator, F, In> std::fmt::Debug for Prepared<I, F, In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

impl<I, F, In, E> Source for Prepared<I, F, In>
where
    I: Iterator,
    F: FnMut(&I::Item) -> Result<In, E>,
    In: Payload,
    E: Into<BoxError>,
{
    type Item = I::Item;
    type In = In;

    fn next(&mut self) -> Option<I::Item> {
        self.items.next()
    }

    fn prepare(&mut self, item: &I::Item, send: impl FnOnce(Result<&In, BoxError>)) {
        match (self.prepare)(item) {
            Ok(input) => send(Ok(&input)),
            Err(error) => send(Err(error.into())),
        }
    }
}

/// A source whose items are kept until they are returned.
#[derive(Debug)]
pub struct Kept<S: Source> {
    pub(crate) source: S,
    pub(crate) items: VecDeque<S::Item>,
}

impl<S: Source> Kept<S> {
    /// The oldest item, whose outcome has been taken.
    #[inline]
    pub(super) fn first(&mut self) -> S::Item {
        self.items.pop_front().expect("one item for each outcome, in order")
    }
}

/// Its `next` keeps the item before `prepare` sees it, so that the item stays even if `prepare` panics.
impl<S: Source> Source for Kept<S> {
    type Item = ();
    type In = S::In;

    fn next(&mut self) -> Option<()> {
        let item = self.source.next()?;
        self.items.push_back(item);
        Some(())
    }

    fn prepare(&mut self, (): &(), send: impl FnOnce(Result<&S::In, BoxError>)) {
        if let Some(item) = self.items.back() {
            self.source.prepare(item, send);
        }
    }
}
