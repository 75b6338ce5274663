//! Requests to the server, over a socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use selfie::{Device, DeviceOptions, OpenOptions, Opened, Source};
use selfie_serve::{Address, Limits, Server};

/// An answer that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A path in the first line, and a body for it in the rest.
pub(crate) fn request(bytes: &[u8]) -> bool {
    const PATHS: [&[u8]; 5] = [
        b"/tokenize",
        b"/interpret",
        b"/score",
        b"/generate",
        b"/states",
    ];
    let mut parts = bytes.splitn(2, |&byte| byte == b'\n');
    let (path, body) = (parts.next(), parts.next());
    let (Some(path), Some(body)) = (PATHS.iter().find(|known| path == Some(known)), body) else {
        return false;
    };
    let path = String::from_utf8_lossy(path);
    let status = post(server(), &path, body);
    assert_ne!(status, 500, "{path} fails inside");
    status == 200
}

/// The status of the answer, once all of it has come.
fn post(at: SocketAddr, path: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(at).expect("the server listens");
    let patience = Some(PATIENCE);
    stream.set_read_timeout(patience).expect("it is not zero");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    // The server may answer, and close, before it has read a body that is too long.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!answer.is_empty(), "{path}: no answer comes: {error}");
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or_else(|| panic!("{path}: the answer has no status: {answer:?}"))
}

/// A server on the demo, which knows the prompt of the corpus and runs until the process ends.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let options = OpenOptions {
            device: DeviceOptions {
                device: Device::Cpu,
                threads: NonZeroUsize::new(1),
                ..DeviceOptions::default()
            },
            ..OpenOptions::default()
        };
        let opened = Opened::new(Source::Demo, options).expect("the demo opens");
        let model = opened.load_unedited(&mut ()).expect("the demo loads");
        let limits = Limits {
            rows: 32,
            body_bytes: 8 << 10,
            prompt_tokens: 64,
            max_new_tokens: 8,
            prompts: 4096,
            seconds: 5,
            ..Limits::default()
        };
        let address = Address {
            port: 0,
            ..Address::default()
        };
        let server = Server::bind(model, &address, limits, Vec::new()).expect("a port is free");
        let at = server.address();
        thread::spawn(move || server.run(|| false));
        // Bodies of the corpus name this prompt by its handle, which depends on its text alone.
        assert_eq!(post(at, "/tokenize", br#"{"prompt":"Rome is in"}"#), 200);
        at
    })
}
