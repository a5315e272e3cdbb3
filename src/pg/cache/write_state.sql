-- cache.write_state
with owned as materialized (
    select i.*,
        (s.status, s.last_error, s.attempts, s.worker_id)
            is distinct from (i.status, i.last_error, i.attempts, $7::text) as differs
    from unnest(
        $1::int[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[],
        $8::text[], $9::text[], $10::text[], $11::int[], $12::bool[]
    ) as i (
        ord, user_key, account_id, slot, epoch, seq,
        user_id, status, last_error, attempts, is_demo
    )
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
    join bridge.sessions s on s.user_id = i.user_id and s.account_id = i.account_id
), written as (
    insert into public.ctrader_cache as c (
        user_key, account_id, is_demo, is_connected, status, last_error, updated_at, epoch, seq
    )
    select i.user_key, i.account_id, coalesce(i.is_demo, known.is_demo, true), false, i.status,
        i.last_error, clock_timestamp(), i.epoch, i.seq
    from owned i
    left join public.ctrader_cache known
        on known.user_key = i.user_key and known.account_id = i.account_id
    order by i.ord
    on conflict (user_key, account_id) do update set
        is_demo = excluded.is_demo,
        is_connected = excluded.is_connected,
        status = excluded.status,
        last_error = excluded.last_error,
        updated_at = excluded.updated_at,
        epoch = excluded.epoch,
        seq = excluded.seq
    where (c.epoch, c.seq) < (excluded.epoch, excluded.seq)
    returning c.user_key, c.account_id
-- Continued by update_sessions.sql and ended by refused_upserts.sql: src/pg/cache.rs joins them.
