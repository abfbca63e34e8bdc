-- What the scripts share: how a counter is stored, aged and kept.
--
-- A counter is one string, a packed list {birth, index, count, count, …}: when the counter was
-- created, which sub-window was the current one when it was last written, and the units of the
-- sub-windows by their age, the current one first, without the zeros at the end. A sub-window is
-- `part` microseconds long and begins at a multiple of that, so `index` is time divided by `part`.
--
-- Lua's numbers are doubles. Times and quotas are integers below 2^53, which doubles hold exactly.

-- The current sub-window and the 16 before it.
local COUNTED = 17
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

-- The counter as it is at `now`, and as it was stored. What has left the count is forgotten; a
-- counter of which nothing is left is a new one. If the clock went back, the newest sub-window
-- that was written stays the current one, so that nothing is given back.
local function read(key, part, now)
  local index = math.floor(now / part)
  local raw = redis.call('GET', key)
  if raw then
    local stored = cmsgpack.unpack(raw)
    local passed = index - stored[2]
    if passed <= 0 then
      return stored, raw
    end
    if passed < COUNTED then
      local aged = {stored[1], index}
      for age = 0, COUNTED - 1 do
        aged[3 + age] = age >= passed and stored[3 + age - passed] or 0
      end
      return aged, raw
    end
  end
  return {now, index}, raw
end

local function total(counter)
  local sum = 0
  for place = 3, #counter do
    sum = sum + counter[place]
  end
  return sum
end

-- Adds units, or takes them away when they are negative, where `age` says; never below zero.
local function add(counter, age, units)
  local place = 3 + age
  for gap = #counter + 1, place do
    counter[gap] = 0
  end
  counter[place] = math.max(0, math.min(LARGEST, counter[place] + units))
end

-- Stores the counter until the last of its units leaves the count, and returns what is stored.
local function write(key, counter, part, now)
  local last = #counter
  while last > 2 and counter[last] == 0 do
    counter[last] = nil
    last = last - 1
  end
  local newest = 3
  while newest < last and counter[newest] == 0 do
    newest = newest + 1
  end
  local leaves = (counter[2] - (newest - 3) + COUNTED) * part
  local packed = cmsgpack.pack(counter)
  redis.call('SET', key, packed, 'PX', math.max(1, math.ceil((leaves - now) / 1000)))
  return packed
end
