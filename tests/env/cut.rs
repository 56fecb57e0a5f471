//! A way to a database that loses a connection at the worst moment: around a COMMIT.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Where the next COMMIT is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum At {
    Never = 0,
    /// Before the server has it.
    Request = 1,
    /// After the server has done it, and before the client knows.
    Answer = 2,
}

/// A running relay.
pub struct Cut {
    pub port: u16,
    at: Arc<AtomicU8>,
    cuts: Arc<AtomicUsize>,
}

impl Cut {
    /// Relays to a port of this machine, until the runtime ends.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (at, cuts) = (Arc::new(AtomicU8::new(At::Never as u8)), Arc::new(AtomicUsize::new(0)));
        let cut = Self { port, at: Arc::clone(&at), cuts: Arc::clone(&cuts) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, Arc::clone(&at), Arc::clone(&cuts)));
            }
        });
        cut
    }

    /// Loses the next COMMIT, once.
    pub fn arm(&self, at: At) {
        self.at.store(at as u8, Ordering::SeqCst);
    }

    /// How many were lost.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Ends with either side, or with a cut.
async fn relay(mut client: TcpStream, server: u16, at: Arc<AtomicU8>, cuts: Arc<AtomicUsize>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                // Not the READ COMMITTED of a greeting.
                let commits = asked[..length].windows(7).any(|seven| seven.starts_with(b"COMMIT") && seven[6] != b'T')
                    || asked[..length].ends_with(b"COMMIT");
                let cut = if commits { at.swap(At::Never as u8, Ordering::SeqCst) } else { At::Never as u8 };
                if cut != At::Never as u8 {
                    cuts.fetch_add(1, Ordering::SeqCst);
                }
                if cut == At::Request as u8 || server.write_all(&asked[..length]).await.is_err() {
                    return;
                }
                if cut == At::Answer as u8 {
                    let _ = server.read(&mut answered).await; // its answer is the proof that it is done
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
