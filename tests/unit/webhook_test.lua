-- lua/webhook.lua: which troubles are told.
local news = require("webhook").news

local function keys(n)
  local out = {}
  for i = 1, n do out[i] = ("credential c%04d refresh"):format(i) end
  return out
end

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

return {
  ["Slack: with parse=none a link is one where it is marked, and nothing that an agent named is markup"] = function()
    local m = require("json").decode((require("webhook").bodies.slack { text = "Proposal 1: the agent a asks for <!channel>&x", url = "https://box.lan/approvals/p/1" }))
    assert(m.parse == "none" and m.text == "Proposal 1: the agent a asks for &lt;!channel&gt;&amp;x\n<https://box.lan/approvals/p/1>", m.text)
  end,
  ["each trouble is told once, however long it lasts"] = function()
    local new, told = news({}, { "credential a 401" }, 1000, 50)
    assert(#new == 1 and new[1] == "credential a 401")
    for at = 1060, 90000, 3600 do
      local more, changed = news(told, { "credential a 401" }, at, 50)
      assert(#more == 0 and changed == nil)
    end
    assert(#news(told, { "credential a 401", "credential a refresh" }, 1060, 50) == 1, "another trouble of the same credential is news")
  end,
  ["one that comes and goes is told once an hour at most"] = function()
    local told, n = {}, 0
    for at = 0, 4 * 3600, 60 do
      local new, known = news(told, (at // 60) % 2 == 0 and { "credential a 401" } or {}, at, 50)
      n, told = n + #new, known or told
    end
    assert(n >= 4 and n <= 5, n)
    local _, known = news(told, {}, 99999, 50)
    assert(count(known) == 0, "what is mended is forgotten")
  end,
  ["what has no room now is told at a later look, and none twice"] = function()
    local told, seen, list = {}, {}, keys(200)
    for at = 0, 600, 60 do
      local new, known = news(told, list, at, at == 120 and 0 or 50)
      assert(#new <= 50 and (at ~= 120 or #new == 0))
      for _, key in ipairs(new) do
        assert(not seen[key], key)
        seen[key] = true
      end
      told = known or told
    end
    assert(count(seen) == 200 and count(told) == 200)
  end,
  ["what is known is bounded, and a clock that goes back or a record of an older form loses nothing"] = function()
    local told = {}
    for i = 0, 40 do
      local list = {}
      for j = 1, 50 do list[j] = ("credential %d-%d 401"):format(i, j) end
      local _, known = news(told, list, i, 50)
      told = known or told
      assert(count(told) <= 1000)
    end
    local new, known = news({ ["credential a"] = "its last refresh failed", ["credential b 401"] = 5000 }, { "credential a 401" }, 1000, 50)
    assert(#new == 1 and count(known) == 1)
  end,
}
