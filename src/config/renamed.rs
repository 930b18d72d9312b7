//! Point names that the profiles of the program had under another name: so that a file that uses
//! one learns the other.

/// The other name, then the name of the vocabulary; sorted. Some have several, of which a profile
/// has one.
const RENAMED: &[(&str, &str)] = &[
    ("applied_max_current", "current_limit"),
    ("backup_soc", "backup_reserve"),
    ("battery_charge_max", "battery_charge_power_max"),
    ("battery_charge_min", "battery_charge_power_min"),
    ("battery_current", "dc_current"),
    ("battery_discharge_max", "battery_discharge_power_max"),
    ("battery_discharge_min", "battery_discharge_power_min"),
    ("bus_address", "device_address"),
    ("capacity", "battery_capacity"),
    ("charge_current_max", "battery_charge_current_max"),
    ("charge_current_rating", "battery_charge_current_max"),
    ("charge_limit", "battery_charge_power_max"),
    ("charge_limit_soc", "soc_max"),
    ("charge_power_max", "battery_charge_power_max"),
    ("charge_power_rating", "battery_charge_power_rating"),
    ("charge_rating", "battery_capacity"),
    ("charge_voltage_max", "battery_charge_voltage_max"),
    ("coil_temperature", "temperature_coil"),
    ("cos_phi", "power_factor_setpoint"),
    ("current_limit", "current_limit_percent"),
    ("current_supported_max", "current_rating"),
    ("cycles", "battery_cycles"),
    ("differential", "temperature_differential"),
    ("discharge_current_max", "battery_discharge_current_max"),
    ("discharge_limit", "battery_discharge_power_max"),
    ("discharge_limit_soc", "soc_min"),
    ("discharge_power_rating", "battery_discharge_power_rating"),
    ("discharge_voltage_min", "battery_discharge_voltage_min"),
    ("enable", "on_off"),
    ("energy", "energy_import"),
    ("energy_import", "energy_yield"),
    ("energy_load", "load_energy"),
    ("energy_load_today", "load_energy_today"),
    ("energy_mwh", "energy_import_mwh"),
    ("energy_rating", "battery_energy_rating"),
    ("energy_yield_today", "pv_energy_today"),
    ("ess_mode", "storage_mode"),
    ("ess_soc_min", "soc_min"),
    ("export_power_max", "export_limit"),
    ("fault_code", "error_code"),
    ("fault_number", "error_code"),
    ("feed_in_limit", "export_limit"),
    ("feed_in_limit_percent", "export_limit_percent"),
    ("firmware", "firmware_version"),
    ("frequency_reference", "reference_1"),
    ("frequency_reference", "setpoint"),
    ("frequency_setpoint", "frequency_setpoint_percent"),
    ("grid_charge", "charge_from_grid"),
    ("grid_export_power", "grid_power"),
    ("grid_setpoint", "grid_power_setpoint"),
    ("hour_meter", "operating_hours"),
    ("hours_run", "operating_hours"),
    ("identification", "model"),
    ("internal_temperature", "temperature_board"),
    ("inverter_enabled", "on_off"),
    ("main_actual_value", "actual_percent"),
    ("max_frequency", "frequency_max"),
    ("meter_frequency", "grid_frequency"),
    ("meter_power_factor", "grid_power_factor"),
    ("mode", "operation_mode"),
    ("model_name", "model"),
    ("motor_rated_frequency", "frequency_max"),
    ("motor_speed_hz", "motor_frequency"),
    ("nominal_power", "power_rating"),
    ("over_temperature", "alarm_high_temperature"),
    ("power", "power_percent"),
    ("pv_dc_current", "pv_current"),
    ("pv_dc_power", "pv_power"),
    ("ramp_up_time", "acceleration_time"),
    ("rated_power", "power_rating"),
    ("relay", "relay_1"),
    ("relay1", "relay_1"),
    ("relay2", "relay_2"),
    ("run_hours", "running_hours"),
    ("run_time", "running_time"),
    ("serial", "serial_number"),
    ("setpoint_actual", "temperature_setpoint_actual"),
    ("setpoint_max", "temperature_setpoint_max"),
    ("setpoint_min", "temperature_setpoint_min"),
    ("software_version", "firmware_version"),
    ("torque", "torque_nm"),
    ("vendor_name", "manufacturer"),
    ("version", "firmware_version"),
    ("voltage_max", "battery_voltage_max"),
    ("voltage_min", "battery_voltage_min"),
];

/// The name of the vocabulary for `name`, out of those that are `known`.
pub(super) fn renamed(name: &str, known: impl Fn(&str) -> bool) -> Option<&'static str> {
    RENAMED
        .iter()
        .find(|(old, new)| *old == name && known(new))
        .map(|(_, new)| *new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_point_is_found_where_its_profile_has_it() {
        assert!(RENAMED.is_sorted());
        assert_eq!(
            renamed("serial", |name| name == "serial_number"),
            Some("serial_number")
        );
        assert_eq!(renamed("serial", |_| false), None);
        assert_eq!(
            renamed("energy_import", |name| name == "energy_yield"),
            Some("energy_yield"),
            "the energy of a generator"
        );
    }
}
