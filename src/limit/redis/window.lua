-- The window algorithm of `limit/window.rs`, for counters that are kept in Redis.
--
-- A counter is one string, a packed list {birth, time, units, time, units, …}: when the counter was
-- created, and its buckets, the oldest first. The units of a bucket leave the count together, a
-- window after its `time`, which is that of the newest of them. Each charge has a bucket of its own
-- while there is a place. Where there is none, charges of the same slot are merged, and otherwise
-- the two buckets of one sub-window whose merging holds their units back the least. A sub-window is
-- `part` microseconds long and begins at a multiple of that.
--
-- Lua's numbers are doubles. Times and quotas are integers below 2^53, which doubles hold exactly.

-- The sub-windows in a window, the slots in a sub-window, and the most buckets of a counter.
local PARTS, SLOTS, PLACES = 16, 20, 24
-- Where counts stop: the last integer from which 1 can be told.
local LARGEST = 9007199254740991

-- Redis's own time in microseconds, so that the instances' clocks do not matter. Only tests give
-- another one.
local function clock(given)
  if given ~= '0' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The counter, and the text that is stored of it. A counter whose units have all left the count is
-- a new one.
local function read(key, part, now)
  local raw = redis.call('GET', key)
  if raw then
    local counter = cmsgpack.unpack(raw)
    if #counter == 1 or counter[#counter - 1] + PARTS * part > now then
      return counter, raw
    end
  end
  return {now}, raw
end

-- The units that still count.
local function total(counter, part, now)
  local sum, begins = 0, now - PARTS * part
  for place = 2, #counter, 2 do
    if counter[place] > begins then
      sum = sum + counter[place + 1]
    end
  end
  return sum
end

-- The time of units that are spent now: no earlier than those before, should the clock go back.
local function latest(counter, now)
  if #counter == 1 then
    return now
  end
  return math.max(now, counter[#counter - 1])
end

-- Where the sub-window of a time ends, or its slot.
local function end_of(time, length)
  return (math.floor(time / length) + 1) * length
end

-- Merges two buckets. Those at the front, if no two are in the same sub-window, because the times
-- lie further apart than a window.
local function merge(counter, part)
  local at, least = 2, math.huge
  for place = 2, #counter - 2, 2 do
    local older, newer = counter[place], counter[place + 2]
    local held_back = counter[place + 1] * (newer - older)
    if held_back < least and newer < end_of(older, part) then
      at, least = place, held_back
    end
  end
  counter[at + 3] = math.min(LARGEST, counter[at + 3] + counter[at + 1])
  table.remove(counter, at)
  table.remove(counter, at)
end

-- Counts units whose newest is of this time, and forgets those that have left the count.
local function put(counter, time, units, part, now)
  local begins = now - PARTS * part
  while counter[2] and counter[2] <= begins do
    table.remove(counter, 2)
    table.remove(counter, 2)
  end
  local at = #counter + 1
  while at > 2 and counter[at - 2] > time do
    at = at - 2
  end
  local is_full = #counter == 1 + 2 * PLACES
  if is_full and at > 2 and time < end_of(counter[at - 2], part / SLOTS) then
    counter[at - 2] = time
    counter[at - 1] = math.min(LARGEST, counter[at - 1] + units)
    return
  end
  table.insert(counter, at, time)
  table.insert(counter, at + 1, math.min(LARGEST, units))
  if is_full then
    merge(counter, part)
  end
end

-- Takes back units that were charged at a time or later, the oldest first, unless the charge may have
-- left the count. Returns whether there were any. The newest time counts: should the clock have gone
-- back, the charge may have left the count before, and the units would be those of others.
local function take_back(counter, charged, units, part, now)
  local place, taken = 2, false
  local counts = charged + PARTS * part > latest(counter, now)
  while counts and units > 0 and counter[place] do
    if counter[place] < charged then
      place = place + 2
    else
      taken = true
      units = units - counter[place + 1]
      if units < 0 then
        counter[place + 1] = -units
      else
        table.remove(counter, place)
        table.remove(counter, place)
      end
    end
  end
  return taken
end

-- Stores the counter until the last of its units leaves the count, and returns what is stored.
local function write(key, counter, part, now)
  local leaves = latest(counter, now) + PARTS * part
  local packed = cmsgpack.pack(counter)
  redis.call('SET', key, packed, 'PX', math.max(1, math.ceil((leaves - now) / 1000)))
  return packed
end
