//! DNS messages: what is read stays within its bounds and lies in the message. (The tests compare with hickory-proto.)
#![no_main]

use ebfw_common::{
    abi::MAX_NAME,
    dns::{self, Bytes, Message as _, NAME_STEPS, Name, RECORD_STEPS, Records, Step},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let message = Bytes(bytes);
    let _ = dns::kind(&message);
    let mut name = Name::new();
    if name.begin(&message, 7) != Step::More {
        return;
    }
    let end = (0..NAME_STEPS).find_map(|index| match name.step(&message, index) {
        Step::More => None,
        step => Some(step),
    });
    if end != Some(Step::Done) || name.end() + 4 > message.end() {
        return;
    }
    assert!(name.length() as usize <= MAX_NAME + 1);
    let mut records = Records::new();
    records.begin(&message, name.end());
    for _ in 0..RECORD_STEPS {
        if records.step(&message) != Step::More {
            break;
        }
        if let Some(answer) = records.answer() {
            assert!(answer.lifetime_s() >= 30);
            let _ = dns::is_special(answer.address());
        }
    }
    // The name is what the labels say, one by one.
    let mut at = 12;
    let mut labels: Vec<Vec<u8>> = Vec::new();
    while bytes[at] != 0 {
        let label = &bytes[at + 1..=at + usize::from(bytes[at])];
        labels.push(label.to_ascii_lowercase());
        at += 1 + label.len();
    }
    assert_eq!(name.text()[..name.length() as usize], labels.join(&b'.'));
    assert_eq!(name.end() as usize, at + 1);
});
