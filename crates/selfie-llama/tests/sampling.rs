use selfie_llama::{Sampling, Tokenizer};
use std::{path::Path, time::Instant};
#[test]
fn timing() {
    let mut s = 1u64;
    let logits: Vec<f32> = (0..128256).map(|_| { let mut z=0f32; for _ in 0..12 { s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); z += (s>>40) as f32 / (1u64<<24) as f32;} (z-6.0)*3.0 }).collect();
    for (t,k,p) in [(1.0,0,1.0),(0.7,0,1.0),(0.7,50,1.0),(0.7,0,0.9),(0.7,0,0.5),(0.7,50,0.9),(2.0,0,0.99)] {
        let x = Sampling{temperature:t, top_k:k, top_p:p, seed:1};
        let n=50; let b = Instant::now(); let mut c=0;
        for i in 0..n { c += x.pick(&logits, 0, i).token as usize; }
        println!("{t} {k} {p}: {:?} {c}", b.elapsed()/n as u32);
    }
    let tok = Tokenizer::open(Path::new("tests/golden/llama2-mha")).unwrap();
    let ids: Vec<u32> = (0..100).map(|i| 300 + (i*37)%250).collect();
    let b = Instant::now(); for _ in 0..20 { tok.pieces(&ids).unwrap(); } println!("pieces 100: {:?}", b.elapsed()/20);
    let tok3 = Tokenizer::open(Path::new("tests/golden/llama3-gqa")).unwrap();
    let b = Instant::now(); for _ in 0..20 { tok3.pieces(&ids).unwrap(); } println!("pieces 100 bl: {:?}", b.elapsed()/20);
    let ids: Vec<u32> = (0..4096).map(|i| 300 + (i*37)%250).collect();
    let b = Instant::now(); tok.decode(&ids).unwrap(); println!("decode 4096: {:?}", b.elapsed());
    let b = Instant::now(); tok3.decode(&ids).unwrap(); println!("decode 4096: {:?}", b.elapsed());
}
