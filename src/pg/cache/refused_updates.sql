-- Ends write_heartbeat: the rows that were not written, and why. Usually none.
-- `not in` is the form that the planner always hashes, whatever lengths it assumes for the arrays.
)
select i.ord, case
    when o.epoch is distinct from i.epoch then 'fenced'
    when c.epoch is null then 'missing'
    when c.epoch = i.epoch and c.seq >= i.seq then 'stale'
    -- Another epoch wrote the row, or another statement changed it while this one ran: this query does not
    -- see that change.
    else 'fenced'
end as reason
from unnest(
    $1::int[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[]
) as i (ord, user_key, account_id, slot, epoch, seq)
left join bridge.slots o on o.slot = i.slot
left join public.ctrader_cache c on c.user_key = i.user_key and c.account_id = i.account_id
where (i.user_key, i.account_id) not in (select w.user_key, w.account_id from written w)
