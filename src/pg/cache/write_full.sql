-- cache.write_full
with owned as materialized (
    select i.*,
        (s.status, s.last_error, s.attempts, s.worker_id)
            is distinct from (i.status, i.last_error, i.attempts, $7::text) as differs
    from unnest(
        $1::int[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[],
        $8::text[], $9::text[], $10::text[], $11::int[], $12::bool[],
        $13::bool[], $14::bigint[], $15::text[],
        $16::numeric[], $17::numeric[], $18::numeric[], $19::numeric[],
        $20::numeric[], $21::numeric[], $22::numeric[], $23::numeric[],
        $24::int[], $25::int[], $26::text[], $27::text[], $28::bigint[], $29::timestamptz[]
    ) as i (
        ord, user_key, account_id, slot, epoch, seq,
        user_id, status, last_error, attempts, is_demo,
        is_connected, trader_login, currency,
        balance, equity, unrealized_gross, unrealized_net,
        used_margin, free_margin, bonus, margin_level,
        position_count, order_count, positions, orders, balance_version, event_at
    )
    join bridge.slots o on o.slot = i.slot and o.epoch = i.epoch
    join bridge.sessions s on s.user_id = i.user_id and s.account_id = i.account_id
), written as (
    insert into public.ctrader_cache as c (
        user_key, account_id, trader_login, is_demo, is_connected, status, last_error, currency,
        balance, equity, unrealized_gross, unrealized_net, used_margin, free_margin, bonus, margin_level,
        position_count, order_count, positions, orders, balance_version, event_at, updated_at, epoch, seq
    )
    select i.user_key, i.account_id, i.trader_login, coalesce(i.is_demo, true), i.is_connected, i.status,
        i.last_error, i.currency, i.balance, i.equity, i.unrealized_gross, i.unrealized_net,
        i.used_margin, i.free_margin, i.bonus, i.margin_level, i.position_count, i.order_count,
        i.positions::jsonb, i.orders::jsonb, i.balance_version, i.event_at, clock_timestamp(),
        i.epoch, i.seq
    from owned i
    order by i.ord
    on conflict (user_key, account_id) do update set
        trader_login = excluded.trader_login,
        is_demo = excluded.is_demo,
        is_connected = excluded.is_connected,
        status = excluded.status,
        last_error = excluded.last_error,
        currency = excluded.currency,
        balance = excluded.balance,
        equity = excluded.equity,
        unrealized_gross = excluded.unrealized_gross,
        unrealized_net = excluded.unrealized_net,
        used_margin = excluded.used_margin,
        free_margin = excluded.free_margin,
        bonus = excluded.bonus,
        margin_level = excluded.margin_level,
        position_count = excluded.position_count,
        order_count = excluded.order_count,
        positions = excluded.positions,
        orders = excluded.orders,
        balance_version = excluded.balance_version,
        event_at = excluded.event_at,
        updated_at = excluded.updated_at,
        epoch = excluded.epoch,
        seq = excluded.seq
    where (c.epoch, c.seq) < (excluded.epoch, excluded.seq)
    returning c.user_key, c.account_id
-- Continued by update_sessions.sql and ended by refused_upserts.sql: src/pg/cache.rs joins them.
