//! MQTT 3.1.1 packets as bytes, and the core that a load runs on: what the broker's benches share.

/// A text with its length before it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A packet of this first byte.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let byte = (left % 128) as u8;
        left /= 128;
        bytes.push(byte | if left > 0 { 0x80 } else { 0 });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// CONNECT with a keep alive of 240 s (rumqttd refuses 0); `flags` is 2 for a clean session.
pub(crate) fn connect(id: &str, flags: u8) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([4, flags, 0, 240]);
    body.extend(text(id));
    packet(0x10, &body)
}

/// SUBSCRIBE to one filter.
pub(crate) fn subscribe(packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(text(filter));
    body.push(qos);
    packet(0x82, &body)
}

/// Keeps this thread, and all that it starts, on the first core: the broker has the second one.
pub(crate) fn stay_on_the_first_core() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    rustix::thread::sched_setaffinity(None, &cpus).unwrap();
}

/// What the command line says besides options.
pub(crate) fn words() -> Vec<String> {
    std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect()
}
