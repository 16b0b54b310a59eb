use super::*;
use crate::wait::DEADLINE;

/// A server that sends back what it is sent.
async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    port
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
}

async fn exchange(stream: &mut TcpStream, data: &[u8]) -> Vec<u8> {
    stream.write_all(data).await.unwrap();
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).await.unwrap();
    back
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let proxy = Proxy::to(echo().await).unwrap();
    let mut stream = connect(&proxy).await;
    assert_eq!(exchange(&mut stream, b"abc").await, b"abc");
    assert_eq!(proxy.connections(), 1);
    assert_eq!(proxy.passed(Direction::ToServer), 3);
}

#[tokio::test]
async fn a_connection_is_cut_and_the_next_one_lives() {
    let proxy = Proxy::to(echo().await).unwrap();
    for how in [Cut::Close, Cut::Reset] {
        let mut stream = connect(&proxy).await;
        exchange(&mut stream, b"abc").await;
        proxy.cut(how);
        let end = stream.read(&mut [0; 1]).await;
        match how {
            Cut::Close => assert_eq!(end.unwrap(), 0),
            Cut::Reset => assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    exchange(&mut connect(&proxy).await, b"abc").await;
}

#[tokio::test]
async fn a_connection_is_cut_after_a_number_of_bytes() {
    let proxy = Proxy::to(echo().await).unwrap();
    proxy.cut_after(Direction::ToClient, 5, Cut::Close);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"abcdefgh").await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"abcde");
}

#[tokio::test]
async fn one_byte_is_corrupted() {
    let proxy = Proxy::to(echo().await).unwrap();
    proxy.corrupt(Direction::ToServer, 4);
    let mut stream = connect(&proxy).await;
    assert_eq!(exchange(&mut stream, b"abc").await, b"abc");
    assert_eq!(exchange(&mut stream, b"def").await, [b'd', !b'e', b'f']);
}

#[tokio::test]
async fn one_byte_is_corrupted_on_one_connection_alone() {
    let proxy = Proxy::to(echo().await).unwrap();
    proxy.corrupt_once(Direction::ToServer, 1);
    assert_eq!(exchange(&mut connect(&proxy).await, b"abc").await, [b'a', !b'b', b'c']);
    assert_eq!(exchange(&mut connect(&proxy).await, b"abc").await, b"abc");
}

#[tokio::test]
async fn what_a_blackhole_held_comes_when_it_is_healed() {
    let proxy = Proxy::to(echo().await).unwrap();
    let mut stream = connect(&proxy).await;
    proxy.blackhole();
    stream.write_all(b"abc").await.unwrap();
    assert_eq!(proxy.passed(Direction::ToServer), 0);
    proxy.heal();
    let mut back = [0; 3];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"abc");
}

#[tokio::test]
async fn new_connections_are_refused_and_then_sent_elsewhere() {
    let proxy = Proxy::to(echo().await).unwrap();
    proxy.refuse();
    assert!(connect(&proxy).await.read(&mut [0; 1]).await.is_err());
    proxy.heal();
    proxy.retarget(echo().await);
    exchange(&mut connect(&proxy).await, b"abc").await;
}
