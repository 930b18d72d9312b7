//! Simulated messages of plain instruments with ready-made profiles: those of an instrument that
//! has everything its profile looks for.
//!
//! One message for each thing that is sent to the instrument, or all that it says by itself. See
//! `field::text::telegram` for placeholders.

use crate::field::text::bytes::Template;

const DSMR: &str = r"/WEL5\\2SIM100\r\n\r\n1-3:0.2.8(50)\r\n0-0:1.0.0(261117120000W)\r\n0-0:96.1.1(4530303330303030303030303030303132)\r\n1-0:0.0.0(20261117)\r\n\
1-0:1.8.0({12345.678+0.00096:010.3}*kWh)\r\n1-0:1.8.1({5581.123+0.00048:010.3}*kWh)\r\n1-0:1.8.2({6764.555+0.00048:010.3}*kWh)\r\n\
1-0:1.8.3({0.1+0.00001:010.3}*kWh)\r\n1-0:1.8.4({0.2+0.00001:010.3}*kWh)\r\n\
1-0:2.8.0({2345.678+0.0001:010.3}*kWh)\r\n1-0:2.8.1({1045.123+0.00005:010.3}*kWh)\r\n1-0:2.8.2({1300.555+0.00005:010.3}*kWh)\r\n\
1-0:2.8.3({0.1+0.00001:010.3}*kWh)\r\n1-0:2.8.4({0.2+0.00001:010.3}*kWh)\r\n\
1-0:3.8.0({1234.5+0.0001:010.3}*kvarh)\r\n1-0:4.8.0({234.5+0.0001:010.3}*kvarh)\r\n0-0:96.14.0(0002)\r\n\
1-0:1.7.0({3.2..3.7:06.3}*kW)\r\n1-0:2.7.0({0..0.1:06.3}*kW)\r\n1-0:16.7.0({3.1..3.7:06.3}*kW)\r\n1-0:1.4.0({3.2..3.7:06.3}*kW)\r\n\
1-0:1.6.0(261101181500W)({4.6..4.7:06.3}*kW)\r\n1-0:3.7.0({0.3..0.4:06.3}*kvar)\r\n1-0:4.7.0({0..0.1:06.3}*kvar)\r\n\
1-0:36.7.0({1.05..1.25:06.3}*kW)\r\n1-0:56.7.0({1.05..1.25:06.3}*kW)\r\n1-0:76.7.0({1.05..1.25:06.3}*kW)\r\n\
1-0:21.7.0({1.05..1.25:06.3}*kW)\r\n1-0:41.7.0({1.05..1.25:06.3}*kW)\r\n1-0:61.7.0({1.05..1.25:06.3}*kW)\r\n\
1-0:22.7.0({0..0.1:06.3}*kW)\r\n1-0:42.7.0({0..0.1:06.3}*kW)\r\n1-0:62.7.0({0..0.1:06.3}*kW)\r\n\
1-0:32.7.0({226..234:05.1}*V)\r\n1-0:52.7.0({226..234:05.1}*V)\r\n1-0:72.7.0({226..234:05.1}*V)\r\n\
1-0:31.7.0({4..6:03}*A)\r\n1-0:51.7.0({4..6:03}*A)\r\n1-0:71.7.0({4..6:03}*A)\r\n1-0:14.7.0({49.95..50.05:05.2}*Hz)\r\n1-0:13.7.0({0.95..0.99:05.3})\r\n1-0:33.7.0({0.95..0.99:05.3})\r\n1-0:53.7.0({0.95..0.99:05.3})\r\n1-0:73.7.0({0.95..0.99:05.3})\r\n\
0-1:24.1.0(003)\r\n0-1:24.2.1(261117120000W)({1234.5+0.0003:09.3}*m3)\r\n0-2:24.1.0(007)\r\n0-2:24.2.1(261117120000W)({234.5+0.00001:09.3}*m3)\r\n\
0-3:24.1.0(006)\r\n0-3:24.2.1(261117120000W)({134.5+0.00001:09.3}*m3)\r\n0-4:24.1.0(004)\r\n0-4:24.2.1(261117120000W)({12.5+0.00001:09.3}*GJ)\r\n\
0-5:24.1.0(012)\r\n0-5:24.2.1(261117120000W)({13.5+0.00001:09.3}*GJ)\r\n!{checksum}\r\n";

const IEC62056_21: [&str; 2] = [
    r"/WEL5\\2SIM100\r\n",
    r"\x02F.F(00000000)\r\n0.0.0(20261117)\r\nC.1.0(20261117)\r\n\
1.8.0({12345.678+0.00096:010.3}*kWh)\r\n1.8.1({5581.123+0.00048:010.3}*kWh)\r\n1.8.2({6764.555+0.00048:010.3}*kWh)\r\n\
1.8.3({0.1+0.00001:010.3}*kWh)\r\n1.8.4({0.2+0.00001:010.3}*kWh)\r\n\
2.8.0({2345.678+0.0001:010.3}*kWh)\r\n2.8.1({1045.123+0.00005:010.3}*kWh)\r\n2.8.2({1300.555+0.00005:010.3}*kWh)\r\n\
2.8.3({0.1+0.00001:010.3}*kWh)\r\n2.8.4({0.2+0.00001:010.3}*kWh)\r\n3.8.0({1234.5+0.0001:010.3}*kvarh)\r\n4.8.0({234.5+0.0001:010.3}*kvarh)\r\n\
1.7.0({3.2..3.7:06.3}*kW)\r\n2.7.0({0..0.1:06.3}*kW)\r\n16.7.0({3.1..3.7:06.3}*kW)\r\n3.7.0({0.3..0.4:06.3}*kvar)\r\n4.7.0({0..0.1:06.3}*kvar)\r\n\
36.7.0({1.05..1.25:06.3}*kW)\r\n56.7.0({1.05..1.25:06.3}*kW)\r\n76.7.0({1.05..1.25:06.3}*kW)\r\n\
21.7.0({1.05..1.25:06.3}*kW)\r\n41.7.0({1.05..1.25:06.3}*kW)\r\n61.7.0({1.05..1.25:06.3}*kW)\r\n\
22.7.0({0..0.1:06.3}*kW)\r\n42.7.0({0..0.1:06.3}*kW)\r\n62.7.0({0..0.1:06.3}*kW)\r\n\
32.7.0({226..234:05.1}*V)\r\n52.7.0({226..234:05.1}*V)\r\n72.7.0({226..234:05.1}*V)\r\n\
31.7.0({4.5..5.5:06.2}*A)\r\n51.7.0({4.5..5.5:06.2}*A)\r\n71.7.0({4.5..5.5:06.2}*A)\r\n14.7.0({49.95..50.05:05.2}*Hz)\r\n13.7.0({0.95..0.99:05.3})\r\n33.7.0({0.95..0.99:05.3})\r\n53.7.0({0.95..0.99:05.3})\r\n73.7.0({0.95..0.99:05.3})\r\n!\r\n\x03{checksum}",
];

const NMEA_0183: [&str; 16] = [
    r"$GPGGA,120000.00,{4807.03..4807.05:09.4},N,{1131.01..1131.03:010.4},E,1,08,0.9,{118..122:.1},M,46.9,M,,*{checksum}\r\n",
    r"$GPRMC,120000.00,A,{4807.03..4807.05:09.4},N,{1131.01..1131.03:010.4},E,{5..8:.1},{170..190:05.1},171126,3.1,E,A*{checksum}\r\n",
    r"$GPGLL,{4807.03..4807.05:09.4},N,{1131.01..1131.03:010.4},E,120000.00,A,A*{checksum}\r\n",
    r"$GPVTG,{170..190:05.1},T,{167..187:05.1},M,{5..8:.1},N,{9.3..14.8:.1},K,A*{checksum}\r\n",
    r"$HEHDT,{170..190:05.1},T*{checksum}\r\n",
    r"$HCHDM,{167..187:05.1},M*{checksum}\r\n",
    r"$HCHDG,{167..187:05.1},,,3.1,E*{checksum}\r\n",
    r"$VWVHW,{170..190:05.1},T,{167..187:05.1},M,{5..8:.1},N,{9.3..14.8:.1},K*{checksum}\r\n",
    r"$SDDPT,{12..14:.1},0.5*{checksum}\r\n",
    r"$SDDBT,{39..46:.1},f,{12..14:.1},M,{6.5..7.7:.1},F*{checksum}\r\n",
    r"$SDDBS,{41..48:.1},f,{12.5..14.5:.1},M,{6.8..8:.1},F*{checksum}\r\n",
    r"$SDDBK,{36..43:.1},f,{11..13:.1},M,{6..7.1:.1},F*{checksum}\r\n",
    r"$IIMWV,{110..130:05.1},R,{6..8:.1},M,A*{checksum}\r\n",
    r"$IIMWV,{120..140:05.1},T,{5..7:.1},M,A*{checksum}\r\n",
    r"$IIMWD,{290..310:05.1},T,{287..307:05.1},M,{9.7..13.6:.1},N,{5..7:.1},M*{checksum}\r\n",
    r"$IIMTW,{21..25:.1},C*{checksum}\r\n",
];

/// Gross and net weight in turn: kg with two decimals, at rest, zeroed.
const TOLEDO: [&str; 2] = [
    r"\x02\x2C\x30\x20{1230..1260:6}   250\r{checksum}",
    r"\x02\x2C\x31\x20{980..1010:6}   250\r{checksum}",
];

const SDI_12: [&str; 2] = [
    r"{address}0003\r\n",
    r"{address}{21..25:+.2}{42..58:+.1}{0.95..0.99:+.3}\r\n",
];

const VAISALA: &str = r"RH= {42..58:5.1} %RH T= {21..25:5.1} 'C Ta= {22..26:5.1} 'C Td= {11..13:5.1} 'C Tdp= {11..13:5.1} 'C\r\n";

/// In hexadecimal digits.
const PLANTOWER: &str = "42 4D 00 1C 00 08 00 0B 00 0D {pm1}{pm2_5}{pm10}{particles_0_3}{particles_0_5}{particles_1_0}{particles_2_5}\
 00 0C 00 04 97 00 {checksum}";

/// In hexadecimal digits; numbers are BCD, least significant byte first.
const DLT645_2007: [&str; 4] = [
    "68 {address} 68 91 08 00 00 01 00 {1234567+0.1:08} {checksum} 16",
    "68 {address} 68 91 06 00 01 01 02 {2260..2340:04} {checksum} 16",
    "68 {address} 68 91 07 00 01 02 02 {4500..5500:06} {checksum} 16",
    "68 {address} 68 91 07 00 00 03 02 {32000..37000:06} {checksum} 16",
];

/// The messages of an instrument of a profile; `None` if it is none of them.
pub(super) fn of(profile: &str) -> Option<Vec<Template>> {
    let (messages, is_hex): (&[&str], bool) = match profile {
        "dsmr" => (&[DSMR], false),
        "iec62056-21" => (&IEC62056_21, false),
        "nmea-0183" => (&NMEA_0183, false),
        "toledo" => (&TOLEDO, false),
        "sdi-12" => (&SDI_12, false),
        "vaisala" => (&[VAISALA], false),
        "plantower" => (&[PLANTOWER], true),
        "dlt645-2007" => (&DLT645_2007, true),
        _ => return None,
    };
    // Lines that are continued in this file are one.
    messages
        .iter()
        .map(|message| Template::new(&message.replace("\\\n", ""), is_hex).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::presets;

    #[test]
    fn every_plain_instrument_has_something_to_say() {
        let plain = presets::names()
            .filter(|name| presets::text(name).is_some_and(|text| text.contains("\ntext:")));
        let mut count = 0;
        for name in plain {
            assert!(
                of(name).is_some_and(|messages| !messages.is_empty()),
                "{name}"
            );
            count += 1;
        }
        assert!(count >= 8, "{count} profiles");
        assert_eq!(of("eastron-sdm120"), None);
    }
}
