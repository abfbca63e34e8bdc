-- The policy: may this request use what it costs of every limit it falls under?
--
-- 1. An instance that remembers units which are still counted says when the counter was born that
--    it had them from. If the counter is not that one, Redis has lost its data: nothing is decided
--    and the instance is told so. It reports what it was granted, and asks again.
-- 2. A limit has room when what is counted and the cost together are within its quota. A cost of 0
--    only asks, and always has room.
-- 3. If every limit has room, all are charged. Otherwise nothing is written at all.
-- 4. An instance may ask for units beyond the cost, to spend them by itself: for requests that
--    wait, or that it expects. It gets them as far as any are left. It may spend them until the
--    sub-window ends, so they count as spent in its last microsecond.
-- 5. An instance may give back units that it was granted and has not spent, whatever the verdict. A
--    counter that has lost its data is left alone.
--
-- KEYS  the counters, all of one subject
-- ARGV  a time for tests or 0, then for each counter: its quota, the length of its sub-windows in
--       microseconds, the cost, the units wanted beyond it, the birth that is remembered or 0, the
--       units given back, and a time in the sub-window that counts them
-- Returns the time in microseconds, the verdict, then for each counter the units granted beyond
-- the cost and what is stored of it.
local ADMITTED, DENIED, LOST = 1, 0, -1
local ARGS = 7

local now = clock(ARGV[1])
local counters, stored, left, changed = {}, {}, {}, {}
local verdict = ADMITTED

for i, key in ipairs(KEYS) do
  local at = ARGS * (i - 1) + 2
  local quota, part, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local birth, unspent = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  counters[i], stored[i] = read(key, part, now)
  local known = birth == counters[i][1]
  if known and unspent > 0 then
    changed[i] = take_back(counters[i], tonumber(ARGV[at + 6]), unspent, part, now)
  end
  left[i] = quota - total(counters[i], part, now)
  if birth ~= 0 and not known then
    verdict = LOST
  elseif cost > 0 and cost > left[i] and verdict == ADMITTED then
    verdict = DENIED
  end
end

local reply = {now, verdict}
for i, key in ipairs(KEYS) do
  local at = ARGS * (i - 1) + 2
  local extra = 0
  if verdict == ADMITTED then
    local cost = tonumber(ARGV[at + 2])
    extra = math.max(0, math.min(tonumber(ARGV[at + 3]), left[i] - cost))
    if cost + extra > 0 then
      local time, part = latest(counters[i], now), tonumber(ARGV[at + 1])
      if extra > 0 then
        time = end_of(time, part) - 1
      end
      put(counters[i], time, cost + extra, part, now)
      changed[i] = true
    end
  end
  if changed[i] and verdict ~= LOST then
    stored[i] = write(key, counters[i], tonumber(ARGV[at + 1]), now)
  end
  reply[#reply + 1] = extra
  reply[#reply + 1] = stored[i] or ''
end
return reply
