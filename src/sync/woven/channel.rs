//! tokio's channels, with a point before each operation.

pub(crate) mod oneshot {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::sync::oneshot;

    use crate::sync::woven::point;

    #[derive(Debug)]
    pub(crate) struct Sender<T>(oneshot::Sender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(oneshot::Receiver<T>);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(self, value: T) -> Result<(), T> {
            point();
            self.0.send(value)
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, oneshot::error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            point();
            Pin::new(&mut self.0).poll(context)
        }
    }
}

pub(crate) mod watch {
    use std::cell::Cell;
    use std::ops::Deref;

    use tokio::sync::watch;
    use tokio::sync::watch::error::RecvError;

    use crate::sync::woven::point;

    thread_local! {
        /// How many values are borrowed just now in the execution that this thread explores.
        static BORROWED: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::sync::woven) fn is_borrowed() -> bool {
        BORROWED.get() > 0
    }

    #[derive(Debug)]
    pub(crate) struct Ref<'a, T>(watch::Ref<'a, T>);

    impl<'a, T> Ref<'a, T> {
        fn new(value: watch::Ref<'a, T>) -> Self {
            BORROWED.set(BORROWED.get() + 1);
            Self(value)
        }
    }

    impl<T> Deref for Ref<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> Drop for Ref<'_, T> {
        fn drop(&mut self) {
            BORROWED.set(BORROWED.get() - 1);
        }
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(watch::Sender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(watch::Receiver<T>);

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(watch::Sender::new(value))
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            point();
            self.0.send_modify(modify);
        }

        pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
            point();
            self.0.send_if_modified(modify)
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            point();
            self.0.send_replace(value)
        }

        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            point();
            Ref::new(self.0.borrow())
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            point();
            Receiver(self.0.subscribe())
        }

        pub(crate) fn receiver_count(&self) -> usize {
            point();
            self.0.receiver_count()
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            point();
            Ref::new(self.0.borrow())
        }

        pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
            point();
            Ref::new(self.0.borrow_and_update())
        }

        pub(crate) async fn changed(&mut self) -> Result<(), RecvError> {
            point();
            self.0.changed().await
        }

        pub(crate) async fn wait_for(
            &mut self,
            is_wanted: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, RecvError> {
            point();
            self.0.wait_for(is_wanted).await.map(Ref::new)
        }
    }
}
