//! Profiles that come with the program: instruments that everybody has, one file each below
//! `presets/`.

/// Name and text of each, in the order of the alphabet.
macro_rules! presets {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("presets/", $name, ".yaml")))),*] };
}

const TEXTS: &[(&str, &str)] = presets![
    "abb-acs550",
    "abb-acs580",
    "abb-b23-b24",
    "abb-terra-ac",
    "advantech-adam-4017plus",
    "advantech-adam-6017",
    "advantech-adam-6050",
    "alfen-eve",
    "carel-ir33",
    "carlo-gavazzi-em24",
    "carlo-gavazzi-em24-e1",
    "carlo-gavazzi-em340",
    "carlo-gavazzi-et112",
    "chint-ddsu666",
    "chint-dtsu666",
    "comap-intelilite4",
    "danfoss-ekc202d",
    "danfoss-erc211",
    "danfoss-fc102",
    "delta-ms300",
    "delta-vfd-el",
    "deye-sunsynk-single-phase",
    "deye-sunsynk-three-phase",
    "dlt645-2007",
    "dse-73xx",
    "dsmr",
    "eastron-sdm120",
    "eastron-sdm230",
    "eastron-sdm630",
    "eastron-sdm72d-m",
    "eastron-sdm72d-m-v2",
    "eletechsup-r4dcb08",
    "endress-hauser-promag",
    "epever-tracer",
    "finder-7e78",
    "finder-7m38",
    "fronius-smart-meter-float",
    "fronius-smart-meter-int",
    "fronius-sunspec-float",
    "fronius-sunspec-int",
    "goodwe-et",
    "growatt-tl-x",
    "growatt-tl3-x",
    "hager-ecr380d",
    "huawei-luna2000",
    "huawei-sun2000",
    "iec62056-21",
    "inepro-pro380",
    "invertek-optidrive-e3",
    "janitza-umg604",
    "janitza-umg96rm",
    "keba-kecontact-p30",
    "krohne-ifc300",
    "lufft-ws-umb",
    "mitsubishi-fr-d700",
    "moxa-iologik-e1210",
    "moxa-iologik-e1240",
    "nmea-0183",
    "orno-or-we-514",
    "orno-or-we-516",
    "peacefair-pzem-004t-v3",
    "peacefair-pzem-016",
    "peacefair-pzem-017",
    "plantower",
    "pylontech-force-h3x",
    "pylontech-hv-bms",
    "qdy30a-level",
    "renke-sn-3000-fsjt-n01",
    "renke-sn-3000-fxjt-n01",
    "schneider-atv320",
    "schneider-iem3155",
    "schneider-pm5xxx",
    "sdi-12",
    "siemens-pac2200",
    "siemens-pac3200",
    "siemens-sinamics-g120",
    "siemens-sinamics-v20",
    "siemens-sitrans-mag6000",
    "sma-hybrid",
    "sma-sunny-tripower",
    "socomec-countis-e23-e24",
    "socomec-diris-a10",
    "solaredge-battery",
    "solaredge-inverter",
    "solaredge-meter",
    "solis-hybrid",
    "solis-inverter",
    "sungrow-sg",
    "sungrow-sh",
    "sunspec-1",
    "sunspec-101",
    "sunspec-102",
    "sunspec-103",
    "sunspec-120",
    "sunspec-121",
    "sunspec-122",
    "sunspec-123",
    "sunspec-124",
    "sunspec-201",
    "sunspec-202",
    "sunspec-203",
    "sunspec-204",
    "sunspec-802",
    "toledo",
    "tuf-2000m",
    "vaisala",
    "victron-battery",
    "victron-solarcharger",
    "victron-system",
    "victron-vebus",
    "wago-750-352",
    "waveshare-modbus-rtu-analog-input-8ch",
    "waveshare-modbus-rtu-relay-8ch",
    "xy-md02",
    "yaskawa-v1000",
];

/// The text of a profile.
pub fn text(name: &str) -> Option<&'static str> {
    let index = TEXTS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    TEXTS.get(index).map(|(_, text)| *text)
}

/// The remark behind a point of a profile: what its manual says of it, with the codes.
pub(super) fn remark(profile: &str, point: &str) -> Option<&'static str> {
    let of_point = |line: &&'static str| {
        line.trim_start()
            .strip_prefix(point)
            .is_some_and(|rest| rest.starts_with(": {"))
    };
    let line = text(profile)?.lines().find(of_point)?;
    line.rsplit_once("   # ").map(|(_, remark)| remark)
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_the_remark_behind_it() {
        assert_eq!(
            remark("sunspec-802", "control_mode"),
            Some("0 remote 1 local")
        );
        assert_eq!(remark("sunspec-802", "mode"), None);
        assert_eq!(remark("nothing", "mode"), None);
    }

    #[test]
    fn every_preset_is_found_by_its_name_and_names_its_source() {
        assert!(TEXTS.is_sorted_by_key(|(name, _)| name));
        for name in names() {
            assert!(
                text(name).is_some_and(|text| text.starts_with("# ")),
                "{name}"
            );
        }
        assert_eq!(text("nothing"), None);
    }
}
