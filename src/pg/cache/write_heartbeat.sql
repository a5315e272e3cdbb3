-- cache.write_heartbeat
with written as (
    update public.ctrader_cache c set
        updated_at = clock_timestamp(), epoch = i.epoch, seq = i.seq
    from unnest(
        $1::int[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[]
    ) as i (ord, user_key, account_id, slot, epoch, seq)
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
    where c.user_key = i.user_key and c.account_id = i.account_id
        and (c.epoch, c.seq) < (i.epoch, i.seq)
    returning c.user_key, c.account_id
-- Ended by refused_updates.sql: src/pg/cache.rs joins them.
