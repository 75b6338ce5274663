use selfie_llama::*;
use std::path::Path;
#[test]
fn time() {
    let t = std::time::Instant::now();
    let tok = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2-mha");
    RandomCheckpoint::shape("tinyllama-1.1b")
        .unwrap()
        .write(Path::new("/tmp/w/tinyllama"), &tok)
        .unwrap();
    eprintln!("{:?}", t.elapsed());
    let c = Checkpoint::open(Path::new("/tmp/w/tinyllama")).unwrap();
    eprintln!(
        "{} {}",
        c.total_bytes(),
        LlamaConfig::open(Path::new("/tmp/w/tinyllama"))
            .unwrap()
            .n_parameters()
    );
    RandomCheckpoint::tiny()
        .write(Path::new("/tmp/w/tiny"), &tok)
        .unwrap();
}
