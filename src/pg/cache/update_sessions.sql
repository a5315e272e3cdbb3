-- Continues write_full and write_state: a state that differs goes to bridge.sessions too, with the slot's
-- row locked, so that a new owner raises its epoch either before this or after it.
), differing as (
    select s.user_id, s.account_id, i.status, i.last_error, i.attempts
    from owned i
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
    join bridge.sessions s on s.user_id = i.user_id and s.account_id = i.account_id
    where i.differs
        and (i.user_key, i.account_id) in (select w.user_key, w.account_id from written w)
    order by i.ord
    for share of o
    for update of s
), told as (
    update bridge.sessions s set
        status = d.status, last_error = d.last_error, attempts = d.attempts,
        worker_id = $7, updated_at = clock_timestamp()
    from differing d
    where s.user_id = d.user_id and s.account_id = d.account_id
-- Ended by refused_upserts.sql: src/pg/cache.rs joins them.
