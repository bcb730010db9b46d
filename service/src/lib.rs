//! What every Sluice process shares: configuration, telemetry, health, drain, errors.
