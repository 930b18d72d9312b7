//! The words of other tools (Telegraf, Neuron, wb-mqtt-serial, modbus4mqtt, ESPHome, Home Assistant, mosquitto, HiveMQ Edge, Node-RED):
//! a file that uses one learns ours.

use super::fault::is_slip_of_one;
use super::file::GIVEN;

/// A mapping of the file, told by a key that only this one has, and how a message names it.
struct Owner {
    mark: &'static str,
    shown: &'static str,
}

const FILE: Owner = Owner {
    mark: "shutdown_grace",
    shown: "at the top of the file",
};
const LINE: Owner = Owner {
    mark: "modbus_tcp",
    shown: "a key of a line",
};
const DEVICE: Owner = Owner {
    mark: "except",
    shown: "a key of a device",
};
const PROFILE: Owner = Owner {
    mark: "factory",
    shown: "a key of a profile",
};
const POINT: Owner = Owner {
    mark: "swinging_door",
    shown: "a key of a point",
};
const WRITE: Owner = Owner {
    mark: "at_most_every",
    shown: "a key of `write`",
};
const UPLINK: Owner = Owner {
    mark: "use_when",
    shown: "a key of an uplink",
};
const SEND: Owner = Owner {
    mark: "prefix",
    shown: "a key of a rule in `send`",
};
const BROKER: Owner = Owner {
    mark: "max_sessions",
    shown: "a key of the broker",
};
const TLS: Owner = Owner {
    mark: "client_certificates",
    shown: "a key of the broker's `tls`",
};
const USER: Owner = Owner {
    mark: "scram",
    shown: "a key of a user",
};

/// Where a word belongs, the words of others (sorted), and what to write.
type Row = (&'static Owner, &'static [&'static str], &'static str);

const BYTE_ORDER: &str = "`byte_order`, with one of ABCD, CDAB, BADC, DCBA";
const TABLE: &str = "the key of the register itself: `at: 40001` as the manual prints it, or `holding`, `input`, `coil`, `discrete` from zero";
const ADDRESS: &str = "`at` for the number in the manual (40001), or `holding`, `input`, `coil`, `discrete` for one from zero";
const SPEED: &str = "part of `speed`, such as 9600 8N1";
const WIRE: &str =
    "the kind of connection itself: `serial:`, `modbus_tcp:`, `rtu_over_tcp:` or `tcp:`";
/// Words that mean something else in each mapping: translated only where they belong.
const GENERIC: [&str; 12] = [
    "gateway", "hostname", "id", "location", "mode", "model", "name", "remote", "server", "size",
    "title", "type",
];

const ROWS: &[Row] = &[
    // Before the same words of points: most who type them mean the line.
    (
        &LINE,
        &[
            "read_timeout",
            "request_timeout",
            "response_timeout",
            "response_timeout_ms",
            "timeout",
            "timeout_ms",
        ],
        "`answer_within`",
    ),
    // What is measured.
    (
        &POINT,
        &[
            "cycle",
            "interval",
            "interval_ms",
            "period",
            "poll",
            "poll_interval",
            "poll_rate",
            "polling",
            "polling_interval",
            "polling_interval_millis",
            "rate",
            "read_period",
            "read_period_ms",
            "refresh",
            "refresh_interval",
            "sample_rate",
            "sampling",
            "scan",
            "scan_interval",
            "scan_rate",
            "update_interval",
        ],
        "`every`",
    ),
    (
        &POINT,
        &[
            "data_type",
            "datatype",
            "encoding",
            "reg_format",
            "value_type",
        ],
        "`type`",
    ),
    (
        &POINT,
        &[
            "fc",
            "function",
            "function_code",
            "functioncode",
            "input_type",
            "object_type",
            "reg_type",
            "register_type",
            "registertype",
            "table",
        ],
        TABLE,
    ),
    (
        &POINT,
        &[
            "addr",
            "address",
            "reg",
            "reg_address",
            "register",
            "register_address",
            "register_number",
            "start",
            "start_address",
        ],
        ADDRESS,
    ),
    (
        &POINT,
        &[
            "byte_endian",
            "byte_swap",
            "byteorder",
            "endian",
            "endianness",
            "reverse",
            "swap",
            "swap_bytes",
            "swap_words",
            "word_endian",
            "word_order",
            "word_swap",
            "wordorder",
        ],
        BYTE_ORDER,
    ),
    (
        &POINT,
        &[
            "coefficient",
            "factor",
            "gain",
            "multiplier",
            "multiply",
            "ratio",
            "scaling",
            "slope",
        ],
        "`scale`",
    ),
    (
        &POINT,
        &["scale_factor"],
        "`scale`, or `scale_from` for a scale factor in another register",
    ),
    (
        &POINT,
        &["divide", "divisor"],
        "`scale`, with 0.1 for a divisor of 10",
    ),
    (&POINT, &["bias", "shift"], "`offset`"),
    (
        &POINT,
        &[
            "accuracy_decimals",
            "digits",
            "precision",
            "round",
            "round_to",
            "rounding",
        ],
        "`decimals`",
    ),
    (
        &POINT,
        &[
            "error_value",
            "invalid",
            "invalid_value",
            "nan",
            "nan_value",
            "null_value",
            "sentinel",
            "unavailable_value",
        ],
        "`broken_value`",
    ),
    (
        &POINT,
        &[
            "engineering_unit",
            "engineering_units",
            "eu",
            "measurement_unit",
            "unit_of_measurement",
            "uom",
        ],
        "`unit`",
    ),
    (
        &POINT,
        &[
            "count",
            "length_words",
            "num_registers",
            "quantity",
            "reg_count",
            "register_count",
            "registers",
            "size",
        ],
        "`type`, which says how many registers a value takes; `length` for a string, `array` for several values",
    ),
    (
        &POINT,
        &["string_data_size", "string_length"],
        "`length` (registers) or `characters`",
    ),
    (&POINT, &["lower_bound", "min_value", "minimum"], "`min`"),
    (&POINT, &["max_value", "maximum", "upper_bound"], "`max`"),
    (
        &POINT,
        &[
            "dictionary",
            "enum",
            "enum_names",
            "map",
            "mapping",
            "off_value",
            "on_value",
            "options",
            "state_off",
            "state_on",
            "states",
            "value_map",
        ],
        "`words`, such as { 0: stop, 1: auto }",
    ),
    (&POINT, &["bit_mask", "bitmask"], "`mask`"),
    (
        &POINT,
        &["bit_index", "bit_number", "bit_position", "bitnumber"],
        "`bit`",
    ),
    (
        &POINT,
        &[
            "access",
            "command_topic",
            "mode",
            "read_only",
            "readonly",
            "rw",
            "set_topic",
            "settable",
            "writable_topic",
            "writeable",
        ],
        "`write`: points that have it can be written, all others cannot",
    ),
    (
        &POINT,
        &["mqtt_topic", "pub_topic", "state_topic"],
        "`topic`",
    ),
    (
        &POINT,
        &[
            "change_threshold",
            "cov",
            "dead_band",
            "delta",
            "hysteresis",
            "min_change",
            "threshold",
        ],
        "`deadband`",
    ),
    (
        &POINT,
        &[
            "force_update",
            "heartbeat",
            "max_interval",
            "max_unchanged_interval",
            "report_interval",
            "unchanged_interval",
        ],
        "`at_least_every`",
    ),
    (
        &POINT,
        &["expire", "expire_after", "max_age", "stale", "timeout"],
        "`stale_after`",
    ),
    (
        &POINT,
        &[
            "calc",
            "calculation",
            "equation",
            "expr",
            "formula",
            "lambda",
            "template",
            "value_template",
        ],
        "`expression`",
    ),
    (&WRITE, &["lower_bound", "min_value", "minimum"], "`min`"),
    (&WRITE, &["max_value", "maximum", "upper_bound"], "`max`"),
    (&WRITE, &["rate_limit", "throttle"], "`at_most_every`"),
    (&WRITE, &["confirm", "readback", "verify"], "`read_back`"),
    // Instruments.
    (
        &DEVICE,
        &[
            "device_address",
            "device_id",
            "id",
            "modbus_address",
            "modbus_id",
            "node",
            "node_id",
            "server_id",
            "slave",
            "slave_address",
            "slave_id",
            "slaveaddress",
            "slaveid",
            "station",
            "station_id",
            "unit_id",
            "unitid",
        ],
        "`unit`",
    ),
    (
        &DEVICE,
        &[
            "attributes",
            "channels",
            "coils",
            "data_points",
            "datapoints",
            "discrete_inputs",
            "fields",
            "holding_registers",
            "input_registers",
            "measurements",
            "metrics",
            "parameters",
            "registers",
            "sensors",
            "tags",
            "values",
            "variables",
        ],
        "`points`",
    ),
    (
        &PROFILE,
        &[
            "attributes",
            "channels",
            "data_points",
            "datapoints",
            "fields",
            "metrics",
            "parameters",
            "registers",
            "sensors",
            "tags",
            "values",
        ],
        "`points`",
    ),
    (&DEVICE, &["device_type", "model", "template"], "`profile`"),
    (
        &DEVICE,
        &["bus", "channel", "connection", "hub", "interface"],
        "`line`",
    ),
    (
        &DEVICE,
        &[
            "max_read_registers",
            "max_reg_count",
            "optimization_max_register_fill",
            "read_chunk_size",
        ],
        "`max_registers`",
    ),
    // Lines.
    (
        &LINE,
        &[
            "controller",
            "device_path",
            "host",
            "host_port",
            "hostname",
            "ip",
            "ip_address",
            "server",
            "target",
            "url",
        ],
        WIRE,
    ),
    (
        &LINE,
        &[
            "com",
            "com_port",
            "dev",
            "device",
            "path",
            "port",
            "port_name",
            "serial_device",
            "serial_port",
            "tty",
            "uart",
        ],
        "`serial: /dev/ttyUSB0`, or for a network `modbus_tcp: host:port`",
    ),
    (
        &LINE,
        &[
            "connection_type",
            "link",
            "method",
            "mode",
            "protocol",
            "transmission_mode",
            "transport",
            "type",
        ],
        WIRE,
    ),
    (
        &LINE,
        &[
            "baud",
            "baud_rate",
            "baudrate",
            "bit_rate",
            "bytesize",
            "data_bits",
            "databits",
            "parity",
            "stop",
            "stop_bits",
            "stopbits",
        ],
        SPEED,
    ),
    (
        &LINE,
        &[
            "delay",
            "delay_between",
            "frame_delay",
            "guard_interval",
            "guard_interval_us",
            "inter_frame",
            "message_wait_milliseconds",
            "pause_between_requests",
            "pause_between_retries",
            "request_delay",
            "send_delay",
            "turnaround_time",
        ],
        "`pause`",
    ),
    (
        &LINE,
        &[
            "close_connection_after_gather",
            "connection_max_idle",
            "idle_timeout",
        ],
        "`close_when_idle`",
    ),
    (&LINE, &["id", "title"], "`name`"),
    (&DEVICE, &["title"], "`name`"),
    // The file.
    (
        &FILE,
        &[
            "buses",
            "connections",
            "hubs",
            "interfaces",
            "modbus",
            "ports",
            "serial",
            "serial_ports",
        ],
        "`lines`",
    ),
    (
        &FILE,
        &[
            "inputs",
            "instruments",
            "meters",
            "nodes",
            "sensors",
            "slaves",
            "things",
        ],
        "`devices`",
    ),
    (
        &FILE,
        &[
            "bridge", "bridges", "cloud", "mqtt", "output", "outputs", "remote", "remotes", "sinks",
        ],
        "`uplinks`",
    ),
    (
        &FILE,
        &["listener", "listeners", "mqtt_broker", "server"],
        "`broker`",
    ),
    (
        &FILE,
        &[
            "buffer",
            "cache",
            "persistence",
            "queue",
            "spool",
            "storage",
        ],
        "`outbox`",
    ),
    (
        &FILE,
        &[
            "gateway",
            "gateway_id",
            "hostname",
            "location",
            "name",
            "node_name",
            "station",
        ],
        "`site`",
    ),
    (
        &FILE,
        &[
            "base_topic",
            "mqtt_topic",
            "root_topic",
            "topic",
            "topic_prefix",
        ],
        "`topics`, such as '{site}/{device}/{point}'",
    ),
    (&FILE, &["templates", "types"], "`profiles`"),
    (
        &FILE,
        &["log_level", "loglevel", "verbose"],
        "the environment variable WELLHEAD_LOG",
    ),
    (
        &FILE,
        &["log_format", "log_type", "logging"],
        "`log`, such as log: { format: json }",
    ),
    // Uplinks.
    (
        &UPLINK,
        &[
            "address",
            "addresses",
            "broker",
            "host",
            "server",
            "servers",
            "uri",
            "url",
        ],
        "`to`, such as mqtts://cloud.example.net",
    ),
    (
        &UPLINK,
        &["port"],
        "part of `to`, such as mqtts://cloud.example.net:8883",
    ),
    (
        &UPLINK,
        &["client", "clientid", "remote_clientid"],
        "`client_id`",
    ),
    (&UPLINK, &["login", "remote_username", "username"], "`user`"),
    (
        &UPLINK,
        &["pass", "passwd", "remote_password"],
        "`password_file`, or `password`",
    ),
    (
        &UPLINK,
        &[
            "keep_alive_interval",
            "keepalive",
            "keepalive_interval",
            "ping_interval",
        ],
        "`keep_alive`",
    ),
    (
        &UPLINK,
        &[
            "bridge_cafile",
            "ca_cert",
            "ca_certs",
            "ca_file",
            "cafile",
            "root_ca",
            "tls_ca",
        ],
        "`ca`",
    ),
    (
        &UPLINK,
        &[
            "bridge_certfile",
            "cert_file",
            "certfile",
            "certificate",
            "client_cert",
            "tls_cert",
        ],
        "`cert`",
    ),
    (
        &UPLINK,
        &[
            "bridge_keyfile",
            "client_key",
            "key_file",
            "keyfile",
            "private_key",
            "tls_key",
        ],
        "`key`",
    ),
    (
        &UPLINK,
        &["ssl", "tls", "use_ssl", "use_tls"],
        "part of `to`: mqtts:// or wss://",
    ),
    (&UPLINK, &["bridge_alpn"], "`alpn`"),
    (
        &UPLINK,
        &[
            "bridge_protocol_version",
            "mqtt_version",
            "protocol_version",
            "version",
        ],
        "`protocol`",
    ),
    (
        &UPLINK,
        &[
            "forward", "forwards", "out", "pub", "publish", "topic", "topics",
        ],
        "`send`, and `receive` for the other way",
    ),
    (
        &UPLINK,
        &["in", "sub", "subscribe", "subscribes", "subscriptions"],
        "`receive`",
    ),
    (
        &UPLINK,
        &[
            "reconnect",
            "reconnect_delay",
            "reconnect_interval",
            "reconnect_period",
            "restart_timeout",
            "retry_interval",
        ],
        "`retry`",
    ),
    (
        &UPLINK,
        &["connect_timeout", "connection_timeout", "timeout"],
        "`connect_within`",
    ),
    (
        &UPLINK,
        &[
            "inflight",
            "max_in_flight",
            "max_inflight",
            "max_inflight_messages",
        ],
        "`window`",
    ),
    (
        &UPLINK,
        &[
            "bridge_max_packet_size",
            "max_packet_size",
            "maximum_packet_size",
        ],
        "`max_packet`",
    ),
    (
        &UPLINK,
        &[
            "bridge_cleansession",
            "clean_session",
            "clean_start",
            "cleansession",
        ],
        "not a setting: sessions are always resumed",
    ),
    (
        &SEND,
        &["local", "pattern", "source", "topic", "topic_filter"],
        "`filter`",
    ),
    (&SEND, &["maximum_qos"], "`qos`"),
    (&SEND, &["destination", "remote", "remote_topic"], "`to`"),
    (&SEND, &["remote_prefix", "topic_prefix"], "`prefix`"),
    (&SEND, &["local_prefix"], "`strip`"),
    (&UPLINK, &["maximum_qos"], "`qos`"),
    // The broker.
    (
        &BROKER,
        &[
            "address",
            "bind",
            "bind_address",
            "bind_interface",
            "host",
            "listener",
            "listeners",
            "port",
        ],
        "`listen`, such as [ 'mqtt://127.0.0.1:1883' ]",
    ),
    (
        &BROKER,
        &["websocket", "websockets", "ws"],
        "an address in `listen`: ws:// or wss://",
    ),
    (
        &BROKER,
        &[
            "cafile",
            "certfile",
            "keyfile",
            "require_certificate",
            "ssl",
            "use_identity_as_username",
        ],
        "`tls`",
    ),
    (
        &BROKER,
        &[
            "accounts",
            "acl",
            "acl_file",
            "auth",
            "authentication",
            "password_file",
            "passwords",
        ],
        "`users`, with `read` and `write`",
    ),
    (
        &BROKER,
        &[
            "inflight",
            "max_inflight",
            "max_inflight_messages",
            "receive_maximum",
        ],
        "`max_in_flight`",
    ),
    (
        &BROKER,
        &["max_queue", "max_queued_messages", "queue_size"],
        "`max_queued`",
    ),
    (&BROKER, &["max_queued_bytes"], "`max_queued_size`"),
    (&BROKER, &["max_keepalive"], "`max_keep_alive`"),
    (
        &BROKER,
        &["max_packet_size", "message_size_limit"],
        "`max_packet`",
    ),
    (&BROKER, &["max_clients"], "`max_connections`"),
    (&BROKER, &["max_topic_alias"], "`topic_aliases`"),
    (
        &BROKER,
        &[
            "autosave_interval",
            "persistence",
            "persistence_file",
            "persistence_location",
            "store",
        ],
        "`keep`, and `outbox.folder`",
    ),
    (
        &BROKER,
        &[
            "persistent_client_expiration",
            "session_expiry",
            "session_expiry_interval",
        ],
        "`max_session_expiry`",
    ),
    (&BROKER, &["sys_interval"], "`sys_every`"),
    (&TLS, &["ca", "ca_file", "cafile"], "`client_ca`"),
    (&TLS, &["cert_file", "certfile", "certificate"], "`cert`"),
    (&TLS, &["key_file", "keyfile", "private_key"], "`key`"),
    (&TLS, &["crlfile"], "`crl`"),
    (&TLS, &["require_certificate"], "`client_certificates`"),
    (
        &TLS,
        &["use_identity_as_username", "use_subject_as_username"],
        "`login: certificate`",
    ),
    (&USER, &["id", "login", "user", "username"], "`name`"),
    (
        &USER,
        &["hash", "pass", "passwd", "password_hash"],
        "`password`, with what `wellhead passwd` prints",
    ),
    (&USER, &["client_id", "clientid"], "`client_ids`"),
    (
        &USER,
        &[
            "acl",
            "allow",
            "permissions",
            "readwrite",
            "roles",
            "topic",
            "topics",
        ],
        "`read` and `write`",
    ),
    (&USER, &["pub", "publish"], "`write`"),
];

/// What wellhead calls a key of another tool: the advice for the mapping whose keys are `known`, or for the one that it belongs to.
pub(super) fn meant(typed: &str, known: &[&str]) -> Option<String> {
    let word = plain(typed);
    let rows = || {
        ROWS.iter()
            .filter(|(_, words, _)| words.contains(&word.as_str()))
    };
    let is_here = |owner: &Owner| known.contains(&owner.mark);
    // Devices, profiles and lines have some keys of points for all their points.
    let is_known = |ours: &str| {
        ours.split('`')
            .nth(1)
            .is_some_and(|key| GIVEN.contains(&key) && known.contains(&key))
    };
    let shared = || {
        rows()
            .find(|(_, _, ours)| is_known(ours))
            .filter(|_| rows().count() == 1)
    };
    match rows().find(|(owner, ..)| is_here(owner)).or_else(shared) {
        Some((_, _, ours)) => Some(format!("in wellhead this is {ours}")),
        // `device` at the top is nearer to `devices` than to what others call a serial port.
        None if is_slip_of_one(typed, known) => None,
        None if GENERIC.contains(&word.as_str()) => None,
        None => rows()
            .next()
            .map(|(owner, _, ours)| format!("in wellhead this is {ours}, {}", owner.shown)),
    }
}

/// `pollInterval`, `poll-interval` and `Poll_Interval` are one word.
fn plain(typed: &str) -> String {
    let mut word = String::with_capacity(typed.len() + 4);
    let mut was_small = false;
    for character in typed.chars() {
        if character.is_uppercase() && was_small {
            word.push('_');
        }
        was_small = character.is_lowercase();
        match character {
            '-' | ' ' | '.' => word.push('_'),
            other => word.extend(other.to_lowercase()),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_POINTS: [&str; 4] = ["at", "every", "swinging_door", "unit"];
    const OF_LINES: [&str; 3] = ["name", "modbus_tcp", "serial"];

    fn check(typed: &str, known: &[&str], expected: &str) {
        assert_eq!(meant(typed, known).unwrap_or_default(), expected, "{typed}");
    }

    #[test]
    fn words_of_other_tools_are_translated_where_they_stand() {
        check("interval", &OF_POINTS, "in wellhead this is `every`");
        check("pollingInterval", &OF_POINTS, "in wellhead this is `every`");
        check("Scan-Interval", &OF_POINTS, "in wellhead this is `every`");
        check(
            "scan_interval",
            &OF_LINES,
            "in wellhead this is `every`, a key of a point",
        );
        check(
            "slave",
            &OF_POINTS,
            "in wellhead this is `unit`, a key of a device",
        );
        check(
            "interval",
            &["every", "class"],
            "in wellhead this is `every`",
        );
        check(
            "timeout",
            &["every", "stale_after"],
            "in wellhead this is `answer_within`, a key of a line",
        );
        check("timeout", &OF_LINES, "in wellhead this is `answer_within`");
        check("timeout", &OF_POINTS, "in wellhead this is `stale_after`");
        check("flavour", &OF_POINTS, "");
        check("name", &OF_POINTS, "");
        check("id", &["except"], "in wellhead this is `unit`");
        check("registers", &["factory"], "in wellhead this is `points`");
        check("device", &["devices", "shutdown_grace"], "");
    }

    #[test]
    fn every_word_is_found_and_stands_once_for_its_owner() {
        let words: usize = ROWS.iter().map(|(_, words, _)| words.len()).sum();
        assert!(words >= 60, "{words}");
        for (owner, words, ours) in ROWS {
            assert!(words.is_sorted(), "{words:?}");
            for word in *words {
                assert_eq!(*word, plain(word), "no other spelling is ever looked for");
                let same = ROWS
                    .iter()
                    .filter(|(other, words, _)| other.mark == owner.mark && words.contains(word))
                    .count();
                assert_eq!(same, 1, "{word} {}", owner.shown);
                check(word, &[owner.mark], &format!("in wellhead this is {ours}"));
            }
        }
    }
}
