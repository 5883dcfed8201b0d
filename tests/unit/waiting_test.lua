--- What makes room for another sign-in.
local waiting = require "web.waiting"

local function list_of(...)
  local list = {}
  for i, of in ipairs { ... } do list[i] = { till = 100 + i, of = of } end
  return list
end

local function left(list)
  local out = {}
  for key in pairs(list) do out[#out + 1] = key end
  table.sort(out)
  return table.concat(out, " ")
end

return {
  ["what has ended goes, and nothing else while there is room"] = function()
    local list = list_of("a", "a", "b")
    waiting.room(list, 101, 4)
    assert(left(list) == "2 3", left(list))
  end,

  ["whoever has the most makes room, with the one that ends first"] = function()
    local list = list_of("me", "thief", "thief", "other")
    waiting.room(list, 0, 4)
    assert(left(list) == "1 3 4", left(list))
    waiting.room(list, 0, 3)
    assert(left(list) == "3 4", "all have one: " .. left(list))
  end,

  ["a stranger's hundred push out none of another's"] = function()
    local list = { mine = { till = 1, of = "me" } }
    for i = 1, 100 do
      waiting.room(list, 0, 32)
      list[i] = { till = 100 + i, of = "thief" }
    end
    assert(list.mine and list[100] and not list[1])
  end,

  ["a machine of IPv6 is its /64"] = function()
    local of = require("web.sessions").network
    assert(of "2001:db8:1:2::7" == of "2001:db8:1:2:3:4:5:6" and of "2001:db8:1:3::7" ~= of "2001:db8:1:2::7")
    assert(of "2001:db8::a:b:c:d" == of "2001:db8::1" and of "2001:db8:0:1::a" ~= of "2001:db8::a")
    assert(of "192.0.2.7" == "192.0.2.7")
  end,
}
