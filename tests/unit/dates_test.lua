-- lua/dates.lua: against the C library, and days that do not exist.
local dates = require "dates"

return {
  ["seconds and text go both ways, as the C library has them"] = function()
    for s = -62135596800, 253402300799, 86400 * 97 + 12345 do      -- the years 1 to 9999
      local text = dates.iso(s)
      local own = os.date("!%Y-%m-%dT%H:%M:%SZ", s):gsub("^%d+", function(y) return ("0"):rep(4 - #y) .. y end)
      assert(text == own, text)
      assert(dates.seconds(text:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)Z$")) == s, text)
    end
  end,
  ["as Date has it, and back"] = function()
    for s = 0, 253402300799, 86400 * 97 + 12345 do
      assert(dates.http(s) == os.date("!%a, %d %b %Y %H:%M:%S GMT", s), dates.http(s))
      assert(dates.parse(dates.http(s)) == s and dates.parse(dates.iso(s)) == s)
    end
    for text, want in pairs { ["2023-11-14T22:13:20Z"] = 1700000000, ["2023-11-14t22:13:20.123456z"] = 1700000000, ["2023-11-14 22:13:20Z"] = 1700000000,
      ["2023-11-15T03:43:20+05:30"] = 1700000000, ["2023-11-14T14:13:20-08:00"] = 1700000000 } do
      assert(dates.parse(text) == want and math.type(dates.parse(text)) == "integer", text)
    end
    for _, text in ipairs { "", "1700000000", "2023-11-14", "2023-11-14T22:13:20", "2023-11-14T22:13Z", "2023-13-14T22:13:20Z", "2023-02-30T22:13:20Z", "2023-11-14T22:13:20+24:00",
      "2023-11-14T22:13:20+01", "2023-11-14T22:13:20Zx", "2023-11-14T22:13:20.Z", "Tue, 14 Xyz 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:20 UTC", ("9"):rep(100) } do
      assert(dates.parse(text) == nil, text)
    end
    assert(dates.parse(nil) == nil and dates.parse(5) == nil)
  end,
  ["each end of a month, and no day behind it"] = function()
    local days = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
    for _, y in ipairs { 1900, 1970, 2000, 2023, 2024, 2100 } do
      for month, n in ipairs(days) do
        if month == 2 and y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0) then n = 29 end
        assert(dates.seconds(y, month, n, 0, 0, 0) and not dates.seconds(y, month, n + 1, 0, 0, 0), ("%d-%d"):format(y, month))
      end
    end
  end,
  ["what is no time"] = function()
    assert(dates.seconds(2026, 11, 29, 23, 59, 60) and dates.seconds("2026", "01", "02", "03", "04", "05"))
    for _, t in ipairs { { 2026, 0, 1, 0, 0, 0 }, { 2026, 13, 1, 0, 0, 0 }, { 2026, 1, 0, 0, 0, 0 }, { 2026, 1, 1, 24, 0, 0 }, { 2026, 1, 1, 0, 60, 0 },
      { 2026, 1, 1, 0, 0, 61 }, { 2026, 1, 1, -1, 0, 0 }, { 2026, 1, 1, 0, 0 }, { nil, 1, 1, 0, 0, 0 }, { 2026, "x", 1, 0, 0, 0 }, { 2026, 1.5, 1, 0, 0, 0 } } do
      assert(dates.seconds(t[1], t[2], t[3], t[4], t[5], t[6]) == nil)
    end
  end,
}
