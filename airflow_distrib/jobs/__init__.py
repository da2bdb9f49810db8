"""What all systems share: what a launcher is, and how a job is submitted, waited for, fetched and cancelled."""
