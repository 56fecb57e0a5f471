//! Connections as both listeners take them: who begins a request ends it in time, and who is gone is found out.

use axum::serve;
use socket2::{SockRef, TcpKeepalive};
use std::{
    future::Future as _,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};

/// From a connection's begin, then from each request's first byte, to the first of its answer. Longer than verbs and supervisors wait. Between two
/// requests nobody hurries: a supervisor that has nothing to say keeps its connection.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// A node that vanishes says nothing (tcp(7)): two minutes after its last word its connections go.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
/// No descriptor is free, perhaps: one may be in a moment.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Asks for the rest of the request (RFC 9110, 15.2.1), and is no answer yet.
const CONTINUE: &[u8] = b"HTTP/1.1 100 ";

/// Takes connections.
pub struct Listener(TcpListener);

/// One that was taken.
pub struct Connection {
    stream: TcpStream,
    /// The end of the time for the request that is under way; `None` between two.
    limit: Option<Pin<Box<Sleep>>>,
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => return (Connection::new(stream), peer),
                // It has gone before its turn.
                Err(why) if matches!(why.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(why) => {
                    tracing::error!(%why, "no connection can be taken now");
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        if let Err(why) = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE) {
            tracing::warn!(%why, "a connection is kept even if its peer vanishes");
        }
        Self { stream, limit: Some(Box::pin(sleep(REQUEST_LIMIT))) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.limit.get_or_insert_with(|| Box::pin(sleep(REQUEST_LIMIT)));
        }
        match &mut self.limit {
            Some(limit) if read.is_pending() => {
                ready!(limit.as_mut().poll(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if !from.starts_with(CONTINUE) {
            self.limit = None;
        }
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
