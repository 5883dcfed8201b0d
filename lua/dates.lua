--- Dates of the Gregorian calendar, in UTC. Years are counted from March, so that a leap day ends its year.
local M = {}

local EPOCH = 719468       -- days from 0000-03-01 to 1970-01-01

local function days_of(y, month, day)
  if month < 3 then y, month = y - 1, month + 12 end
  return 365 * y + y // 4 - y // 100 + y // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - EPOCH
end

--- dates.iso(s) -> "2026-11-21T02:07:00Z" (RFC 3339); s: Unix seconds.
function M.iso(s)
  local days, rest = s // 86400, s % 86400
  local z = days + EPOCH
  local era = z // 146097
  local doe = z - era * 146097
  local yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
  local doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
  local mp = (5 * doy + 2) // 153
  local month = mp < 10 and mp + 3 or mp - 9
  return ("%04d-%02d-%02dT%02d:%02d:%02dZ"):format(yoe + era * 400 + (month < 3 and 1 or 0), month, doy - (153 * mp + 2) // 5 + 1,
    rest // 3600, rest // 60 % 60, rest % 60)
end

local DAYS = { [0] = "Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed" }      -- 1970-01-01 was a Thursday
local MONTHS = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
local NUMBERS = {}
for i, name in ipairs(MONTHS) do NUMBERS[name] = i end

--- dates.http(s) -> "Tue, 14 Nov 2023 22:13:20 GMT", as Date has it (RFC 9110 5.6.7); s: Unix seconds.
function M.http(s)
  local y, month, day, clock = M.iso(s):match("^(%d+)-(%d+)-(%d+)T(.*)Z$")
  return ("%s, %s %s %s %s GMT"):format(DAYS[s // 86400 % 7], day, MONTHS[tonumber(month)], y, clock)
end

--- dates.parse(text) -> Unix seconds | nil. text: as RFC 3339 has it, with any offset, or as Date has it.
function M.parse(text)
  if type(text) ~= "string" or #text > 64 then return nil end
  local day, name, y, h, min, sec = text:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if day then return M.seconds(y, NUMBERS[name], day, h, min, sec) end
  local month, rest
  y, month, day, h, min, sec, rest = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(.*)$"
  local at, zone = y and M.seconds(y, month, day, h, min, sec), rest and rest:gsub("^%.%d+", "")
  if not at or zone == "Z" or zone == "z" then return at or nil end
  local sign, hours, minutes = zone:match "^([+-])(%d%d):(%d%d)$"
  if not sign or hours > "23" or minutes > "59" then return nil end
  local off = tonumber(hours) * 3600 + tonumber(minutes) * 60
  return math.tointeger(sign == "+" and at - off or at + off)
end

--- dates.seconds(y, month, day, hour, minute, second) -> Unix seconds | nil: there is no such day or time. Each is a number
-- or its digits; second 60 is a leap second.
function M.seconds(...)
  local y, month, day, hour, minute, second = table.unpack({ ... }, 1, 6)
  y, month, day = math.tointeger(tonumber(y)), math.tointeger(tonumber(month)), math.tointeger(tonumber(day))
  hour, minute, second = math.tointeger(tonumber(hour)), math.tointeger(tonumber(minute)), math.tointeger(tonumber(second))
  if not (y and month and day and hour and minute and second) or month < 1 or month > 12 or day < 1
    or hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60 then return nil end
  local days = days_of(y, month, day)
  local after = month == 12 and days_of(y + 1, 1, 1) or days_of(y, month + 1, 1)
  return days < after and days * 86400 + hour * 3600 + minute * 60 + second or nil
end

return M
