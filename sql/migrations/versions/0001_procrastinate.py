"""procrastinate's schema: its packaged migrations up to a pinned one, in a schema of their own.

Each file commits on its own, because an enum value cannot be used in the transaction that adds it. Files
that a later release of procrastinate adds are a later revision of ours, ``pre`` and ``post`` in different
deploys.
"""

from importlib.resources import files

from app.migrate import run_committed

revision = "0001"
down_revision = None
transactional = False

MIGRATIONS = [
    "00.00.00_01_initial.sql",
    "00.05.00_01_drop_started_at_column.sql",
    "00.05.00_02_drop_started_at_column.sql",
    "00.05.00_03_drop_procrastinate_version_table.sql",
    "00.06.00_01_fix_procrastinate_fetch_job.sql",
    "00.07.01_01_fix_trigger_status_events_insert.sql",
    "00.08.01_01_add_queueing_lock_column.sql",
    "00.10.00_01_close_fetch_job_race_condition.sql",
    "00.10.00_02_add_defer_job_function.sql",
    "00.11.00_03_add_procrastinate_periodic_defers.sql",
    "00.12.00_01_add_foreign_key_index.sql",
    "00.14.00_01_add_locks_to_periodic_defer.sql",
    "00.15.02_01_fix_procrastinate_defer_periodic_job.sql",
    "00.16.00_01_add_finish_job_and_retry_job_functions.sql",
    "00.17.00_01_add_trigger_on_job_deletion.sql",
    "00.17.00_02_delete_finished_jobs.sql",
    "00.17.00_03_add_checks_to_finish_job.sql",
    "00.17.00_04_add_checks_to_retry_job.sql",
    "00.18.01_01_fix_finish_job_compat_issue.sql",
    "00.19.00_01_add_index_on_procrastinate_jobs.sql",
    "00.22.00_01_add_kwargs_to_defer_periodic_job.sql",
    "00.23.00_01_null_locks_excluded.sql",
    "01.00.00_01_remove_old_finish_job_function.sql",
    "01.01.01_01_job_id_bigint.sql",
    "02.00.03_01_add_job_priority.sql",
    "02.05.00_01_add_periodic_job_priority.sql",
    "02.06.00_01_add_cancel_states.sql",
    "02.08.00_01_add_additional_params_to_retry_job.sql",
    "02.14.01_01_add_indexes_for_fetch_job.sql",
    "03.00.00_01_pre_cancel_notification.sql",
    "03.00.00_50_post_cancel_notification.sql",
    "03.01.00_01_pre_add_heartbeat.sql",
    "03.01.00_50_post_add_heartbeat.sql",
    "03.02.00_01_pre_batch_defer_jobs.sql",
    "03.02.00_50_post_batch_defer_jobs.sql",
    "03.03.00_01_pre_priority_lock_fetch_job.sql",
    "03.04.00_01_pre_add_retry_failed_job_procedure.sql",
    "03.04.00_50_post_add_retry_failed_job_procedure.sql",
]

# An attempt that was cut short left some files committed and no version recorded: begin again, unless it is
# in use.
START_OVER = """
DO $$
DECLARE
    has_jobs boolean := false;
BEGIN
    IF to_regclass('procrastinate.procrastinate_jobs') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM procrastinate.procrastinate_jobs)' INTO has_jobs;
    END IF;
    IF has_jobs THEN
        RAISE EXCEPTION 'schema procrastinate holds jobs but was not made by this migration';
    END IF;
    DROP SCHEMA IF EXISTS procrastinate CASCADE;
    CREATE SCHEMA procrastinate;
END
$$;
"""


def upgrade() -> None:
    packaged = files("procrastinate") / "sql" / "migrations"
    in_schema = "SET LOCAL search_path TO procrastinate;\n{}".format
    run_committed([START_OVER, *(in_schema((packaged / name).read_text()) for name in MIGRATIONS)])
