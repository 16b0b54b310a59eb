use super::*;
use crate::archive::key::Key;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result as Stored,
};
use std::sync::atomic::AtomicUsize;

const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);

fn options() -> Options {
    Options::new([])
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn memory() -> (Arc<InMemory>, Archive) {
    let store = Arc::new(InMemory::new());
    let archive = Archive::with_store(Arc::<InMemory>::clone(&store), "backup/main", options()).unwrap();
    (store, archive)
}

fn folder(options: Options) -> (tempfile::TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(&format!("file://{}", folder.path().display()), options).unwrap();
    (folder, archive)
}

fn segment(number: u8) -> ObjectName {
    ObjectName::of_file(SYSTEM, &format!("0000000100000000000000{number:02X}")).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A store of memory with a fault.
#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    fault: Fault,
    asked: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Conditions are ignored.
    Unconditional,
    /// Puts are done, but the first answers are lost.
    AnswersLost(usize),
    /// All is refused with this.
    Refused(fn() -> object_store::Error),
    /// Nothing is answered.
    Silent,
    /// Objects are listed the other way around.
    Unordered,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

fn generic(said: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: said.into() }
}

impl Faulty {
    fn archive(fault: Fault) -> (Arc<Self>, Archive) {
        let store = Arc::new(Self { inner: InMemory::new(), fault, asked: AtomicUsize::new(0) });
        let options = Options { timeout: Duration::from_secs(1), ..options() };
        let archive = Archive::with_store(Arc::<Self>::clone(&store), "", options).unwrap();
        (store, archive)
    }

    /// How often something was asked of the store before.
    async fn ask(&self) -> Stored<usize> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Refused(error) => Err(error()),
            Fault::Silent => std::future::pending().await,
            Fault::AnswersLost(_) | Fault::Unconditional | Fault::Unordered => Ok(asked),
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Stored<PutResult> {
        let asked = self.ask().await?;
        if matches!(self.fault, Fault::Unconditional) {
            options.mode = PutMode::Overwrite;
        }
        let put = self.inner.put_opts(path, payload, options).await;
        match self.fault {
            Fault::AnswersLost(count) if asked < count => Err(generic("connection reset")),
            _ => put,
        }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Stored<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Stored<GetResult> {
        self.ask().await?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Stored<Path>>) -> BoxStream<'static, Stored<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Stored<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        if !matches!(self.fault, Fault::Unordered) {
            return listed;
        }
        let reversed = listed.collect::<Vec<_>>().map(|found| futures_util::stream::iter(found.into_iter().rev()));
        reversed.flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Stored<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Stored<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What every store has to do.
async fn keeps_the_rules(archive: &Archive) {
    assert_eq!(archive.probe().await, Ok(Probe::Created));
    assert_eq!(archive.probe().await, Ok(Probe::Found));

    let (name, content) = (segment(1), bytes("the first segment"));
    assert_eq!(archive.put(&name, content.clone()).await, Ok(Put::Created));
    assert_eq!(archive.put(&name, content.clone()).await, Ok(Put::Same));
    assert_eq!(archive.get(&name).await, Ok(Some(content.clone())));
    let header = archive.header(&name).await.unwrap().unwrap();
    assert_eq!(header.plain_bytes, content.len() as u64);

    let error = archive.put(&name, bytes("another segment!!")).await.unwrap_err();
    let StoreError::Conflict { object, ours, theirs, .. } = &error else { panic!("{error}") };
    assert_eq!((object, *theirs), (&archive.url_of(&name), header.plain_sha256));
    assert_ne!(ours, theirs);
    assert!(error.to_string().contains(&ours.to_string()) && error.to_string().contains("never replaced"), "{error}");
    assert_eq!(archive.get(&name).await, Ok(Some(content)), "what is there stays");

    assert_eq!(archive.get(&segment(2)).await, Ok(None));
    assert_eq!(archive.header(&segment(2)).await, Ok(None));

    let other = SystemId(9);
    let history = ObjectName::of_file(other, "00000002.history").unwrap();
    archive.put(&history, bytes("1\t0/3000000\tno recovery target specified\n")).await.unwrap();
    let mut systems = archive.systems().await.unwrap();
    systems.sort_by_key(|system| system.0);
    assert_eq!(systems, [other, SYSTEM]);
    assert_eq!(archive.timelines(SYSTEM).await, Ok(vec![Timeline::FIRST]));
    assert_eq!(archive.timelines(other).await, Ok(vec![]));
    assert_eq!(archive.list_histories(other).await.unwrap().objects[0].name, history);
}

#[test]
fn memory_keeps_the_rules() {
    block_on(async { keeps_the_rules(&memory().1).await });
}

#[test]
fn a_folder_keeps_the_rules() {
    let (folder, archive) = folder(options());
    block_on(keeps_the_rules(&archive));
    let path = folder.path().join(format!("{SYSTEM}/00000001/000000010000000000000001.zst"));
    assert_eq!(zstd::stream::decode_all(&std::fs::read(path).unwrap()[..]).unwrap(), b"the first segment");
}

#[test]
fn an_encrypted_archive_keeps_the_rules() {
    let key = Key::new([5; 32]);
    let (folder, archive) = folder(Options { keys: Keys::new(vec![key.clone()]), level: None, ..options() });
    block_on(keeps_the_rules(&archive));

    // Without the key, nothing can be read, but everything told apart.
    let url = archive.url().to_owned();
    let stranger = Archive::open(&url, options()).unwrap();
    let error = block_on(stranger.get(&segment(1))).unwrap_err();
    assert!(
        matches!(&error, StoreError::Settings { problem } if problem.contains("--key-file") && problem.contains(&key.id().to_string()))
    );
    assert_eq!(block_on(stranger.put(&segment(1), bytes("the first segment"))), Ok(Put::Same));
    // A new key reads what the old one wrote where both are given.
    let both = Archive::open(&url, Options { keys: Keys::new(vec![Key::new([6; 32]), key]), ..options() }).unwrap();
    assert_eq!(block_on(both.get(&segment(1))), Ok(Some(bytes("the first segment"))));
    drop(folder);
}

#[test]
fn with_a_key_what_is_not_encrypted_is_not_believed() {
    let (folder, plain) = folder(options());
    block_on(plain.probe()).unwrap();
    block_on(plain.put(&segment(1), bytes("from before, or from who knows whom"))).unwrap();
    let url = plain.url().to_owned();
    let with = |keys: Keys| Archive::open(&url, Options { keys, ..options() }).unwrap();
    let key = Key::new([5; 32]);
    let archive = with(Keys::new(vec![key.clone()]));
    for error in [
        block_on(archive.get(&segment(1))).unwrap_err(),
        block_on(archive.header(&segment(1))).unwrap_err(),
        // The same content is no success: nobody could read it back.
        block_on(archive.put(&segment(1), bytes("from before, or from who knows whom"))).unwrap_err(),
    ] {
        assert!(matches!(&error, StoreError::Damaged { problem, .. } if problem.contains("--allow-plain")), "{error}");
    }
    block_on(archive.put(&segment(2), bytes("encrypted"))).unwrap();

    let both = with(Keys::new(vec![key]).allowing_plain(true));
    assert_eq!(block_on(both.get(&segment(1))), Ok(Some(bytes("from before, or from who knows whom"))));
    assert_eq!(block_on(both.get(&segment(2))), Ok(Some(bytes("encrypted"))));
    assert_eq!(block_on(both.put(&segment(1), bytes("from before, or from who knows whom"))), Ok(Put::Same));
    block_on(both.put(&segment(3), bytes("encrypted"))).unwrap();
    assert_eq!(block_on(archive.get(&segment(3))), Ok(Some(bytes("encrypted"))), "what is put is encrypted all the same");
    drop(folder);
}

#[test]
fn nothing_is_missing_where_there_is_no_archive() {
    let (_, archive) = memory();
    block_on(async {
        for error in [
            archive.get(&segment(1)).await.unwrap_err(),
            archive.header(&segment(1)).await.unwrap_err(),
            archive.list(SYSTEM, None).await.unwrap_err(),
            archive.systems().await.unwrap_err(),
        ] {
            assert!(matches!(&error, StoreError::Settings { problem } if problem.contains("beyond-pg-archive")), "{error}");
        }
        archive.probe().await.unwrap();
        assert_eq!(archive.get(&segment(1)).await, Ok(None));
    });
}

#[test]
fn another_format_is_refused() {
    let (store, archive) = memory();
    block_on(async {
        store.put(&Path::from("backup/main/beyond-pg-archive"), "{\"format\":2}\n".into()).await.unwrap();
        let error = archive.get(&segment(1)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Settings { problem } if problem.contains("format 1")), "{error}");
    });
}

#[test]
fn what_is_damaged_is_never_given_or_taken_for_the_same() {
    let (store, archive) = memory();
    let path = Path::from(format!("backup/main/{}", segment(1)));
    let content = bytes("the first segment");
    block_on(async {
        archive.probe().await.unwrap();
        archive.put(&segment(1), content.clone()).await.unwrap();
        let whole = store.get(&path).await.unwrap().bytes().await.unwrap();
        for cut in [0, 1, 50, HEADER_BYTES, whole.len() - 1] {
            store.put(&path, whole.slice(..cut).into()).await.unwrap();
            for error in [archive.get(&segment(1)).await.unwrap_err(), archive.put(&segment(1), content.clone()).await.unwrap_err()]
            {
                assert!(matches!(&error, StoreError::Damaged { .. }), "{cut}: {error}");
            }
        }
        for at in [3, 12, 60, 119, whole.len() - 3] {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 4;
            store.put(&path, flipped.into()).await.unwrap();
            let error = archive.get(&segment(1)).await.unwrap_err();
            assert!(matches!(&error, StoreError::Damaged { .. }), "{at}: {error}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        store.put(&path, longer.into()).await.unwrap();
        assert!(matches!(archive.header(&segment(1)).await, Err(StoreError::Damaged { .. })));
    });
}

#[test]
fn a_store_without_conditions_is_refused() {
    let (_, archive) = Faulty::archive(Fault::Unconditional);
    let error = block_on(archive.probe()).unwrap_err();
    assert!(matches!(&error, StoreError::Unsupported { problem } if problem.contains("If-None-Match")), "{error}");
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let (store, archive) = Faulty::archive(Fault::AnswersLost(2));
    let put = block_on(archive.put(&segment(1), bytes("the first segment")));
    assert_eq!(put, Ok(Put::Same), "the first attempt had put it");
    assert!(store.asked.load(Ordering::Relaxed) >= 3);
}

#[test]
fn what_goes_wrong_is_told_by_what_there_is_to_do() {
    type Refusal = (fn() -> object_store::Error, fn(&StoreError) -> bool, &'static str);
    let refusals: [Refusal; 9] = [
        (
            || generic("Server returned non-2xx status code: 501 Not Implemented: x"),
            |e| matches!(e, StoreError::Unsupported { .. }),
            "501",
        ),
        (
            || generic("non-2xx status code: 400 Bad Request: <Code>ExpiredToken</Code>"),
            |e| matches!(e, StoreError::Credentials { .. }),
            "renew",
        ),
        (|| generic("non-2xx status code: 400 Bad Request: <Code>X</Code>"), |e| matches!(e, StoreError::Settings { .. }), "400"),
        (|| generic("Received redirect without LOCATION"), |e| matches!(e, StoreError::Settings { .. }), "AWS_REGION"),
        (
            || generic("Error performing PUT http://169.254.169.254/latest"),
            |e| matches!(e, StoreError::Credentials { .. }),
            "AWS_PROFILE",
        ),
        (|| generic("non-2xx status code: 403: RequestTimeTooSkewed"), |e| matches!(e, StoreError::Credentials { .. }), "clock"),
        (
            || object_store::Error::PermissionDenied { path: "p".into(), source: "AccessDenied".into() },
            |e| matches!(e, StoreError::Credentials { .. }),
            "not allowed",
        ),
        (
            || object_store::Error::NotFound { path: "p".into(), source: "NoSuchBucket".into() },
            |e| matches!(e, StoreError::Settings { .. }),
            "--store",
        ),
        (
            || object_store::Error::NotImplemented { operation: "o".into(), implementer: "i".into() },
            |e| matches!(e, StoreError::Unsupported { .. }),
            "can't",
        ),
    ];
    for (error, is_kind, said) in refusals {
        let (store, archive) = Faulty::archive(Fault::Refused(error));
        let error = block_on(archive.put(&segment(1), bytes("x"))).unwrap_err();
        assert!(is_kind(&error) && error.to_string().contains(said), "{said}: {error:?}");
        assert_eq!(store.asked.load(Ordering::Relaxed), 1, "{said}: it will not come right by itself");
    }
}

#[test]
fn what_may_come_right_is_tried_until_the_time_is_up() {
    for said in
        [|| generic("non-2xx status code: 503 Slow Down"), || generic("non-2xx status code: 429"), || generic("connection refused")]
    {
        let (store, archive) = Faulty::archive(Fault::Refused(said));
        let error = block_on(archive.put(&segment(1), bytes("x"))).unwrap_err();
        assert!(error.is_retry() && error.to_string().contains("--timeout"), "{error}");
        assert!((3..40).contains(&store.asked.load(Ordering::Relaxed)), "with pauses between");
    }
    let (_, archive) = Faulty::archive(Fault::Silent);
    let error = block_on(archive.get(&segment(1))).unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("no answer within 1 s"), "{error}");
}

#[test]
fn only_what_can_be_made_again_is_replaced() {
    let (_, archive) = memory();
    block_on(async {
        archive.probe().await.unwrap();
        let index = ObjectName::parse(&format!("{SYSTEM}/00000001/000000010000000000000001.idx.zst")).unwrap();
        archive.put(&index, bytes("{}")).await.unwrap();
        assert!(matches!(archive.put(&index, bytes("{ }")).await, Err(StoreError::Conflict { .. })));
        archive.replace(&index, bytes("{ }")).await.unwrap();
        assert_eq!(archive.get(&index).await, Ok(Some(bytes("{ }"))));
        archive.put(&segment(1), bytes("x")).await.unwrap();
        assert!(matches!(archive.replace(&segment(1), bytes("y")).await, Err(StoreError::Settings { .. })));
        archive.delete(&index).await.unwrap();
        archive.delete(&index).await.unwrap();
        assert_eq!(archive.get(&index).await, Ok(None));
    });
}

#[test]
fn a_list_is_in_order_and_names_what_is_foreign() {
    let (store, archive) = memory();
    block_on(async {
        archive.probe().await.unwrap();
        let tail =
            |end: u64| ObjectName::parse(&format!("{SYSTEM}/00000001/000000010000000000000003.tail/{end:016X}.zst")).unwrap();
        for name in [segment(2), tail(0x300_2000), segment(1), tail(0x300_1000)] {
            archive.put(&name, bytes("x")).await.unwrap();
        }
        store.put(&Path::from(format!("backup/main/{SYSTEM}/00000001/notes.txt")), "x".into()).await.unwrap();
        store.put(&Path::from(format!("backup/other/{SYSTEM}/00000001/notes.txt")), "x".into()).await.unwrap();
        let listing = archive.list(SYSTEM, Some(Timeline::FIRST)).await.unwrap();
        let names: Vec<_> = listing.objects.iter().map(|listed| listed.name.clone()).collect();
        assert_eq!(names, [segment(1), segment(2), tail(0x300_1000), tail(0x300_2000)]);
        assert_eq!(listing.foreign, [format!("{SYSTEM}/00000001/notes.txt")]);
        let name = "000000010000000000000003".parse().unwrap();
        let tails = archive.list_tails(SYSTEM, &name).await.unwrap();
        assert_eq!(tails.objects.last().map(|listed| listed.name.clone()), Some(tail(0x300_2000)));
        assert_eq!(archive.list(SYSTEM, Timeline::new(2)).await, Ok(Listing::default()));
    });
}

#[test]
fn a_long_list_is_put_together() {
    let (_kept, in_folder) = folder(options());
    for archive in [memory().1, in_folder] {
        block_on(async {
            archive.probe().await.unwrap();
            for count in 0..8 {
                let listing = archive.list(SYSTEM, None).await.unwrap();
                let names: Vec<_> = listing.objects.into_iter().map(|listed| listed.name).collect();
                assert_eq!(names, (0..count).map(|number| segment(number + 1)).collect::<Vec<_>>());
                archive.put(&segment(count + 1), bytes("x")).await.unwrap();
            }
        });
    }
}

#[test]
fn a_store_that_lists_in_no_order_is_refused() {
    let (store, archive) = Faulty::archive(Fault::Unordered);
    block_on(async {
        store.inner.put(&Path::from("beyond-pg-archive"), "{\"format\":1}\n".into()).await.unwrap();
        for number in 1..5 {
            store.inner.put(&Path::from(segment(number).to_string()), "x".into()).await.unwrap();
        }
        let error = archive.list(SYSTEM, None).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unsupported { problem } if problem.contains("no order")), "{error}");
    });
}

#[test]
fn calls_can_be_made_on_any_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let (_, archive) = memory();
    drop(is_send(archive.probe()));
    drop(is_send(archive.put(&segment(1), Bytes::new())));
    drop(is_send(archive.get(&segment(1))));
    drop(is_send(archive.list(SYSTEM, None)));
}
