--- The commands of a push (lua/pktline.lua): what git sends, every beginning of it, and what no server reads as we do.
local pktline = require "pktline"

local zero, one, two = ("0"):rep(40), ("1"):rep(40), ("2"):rep(40)
local function pkt(text) return ("%04x%s"):format(#text + 4, text) end
local function refused(text)
  local push, why = pktline.parse(text)
  assert(push == nil and type(why) == "string", text)
end

local whole = pkt("shallow " .. one .. "\n") .. pkt(zero .. " " .. one .. " refs/heads/new\0 report-status side-band-64k push-options agent=git/2.39\n")
  .. pkt(one .. " " .. two .. " refs/tags/v1") .. pkt(two .. " " .. zero .. " refs/heads/old") .. "0000" .. pkt "ci.skip" .. pkt "a=b\n" .. "0000"

return {
  ["commands, capabilities and options of a push are read"] = function()
    local push = assert(pktline.parse(whole .. "PACK"))
    local said = {}
    for i, c in ipairs(push.commands) do said[i] = c.kind .. " " .. c.ref end
    assert(table.concat(said, ", ") == "create refs/heads/new, move refs/tags/v1, delete refs/heads/old")
    assert(push.has["report-status"] and push.has.agent == "git/2.39" and table.concat(push.options, " ") == "ci.skip a=b")
    local long = pktline.parse(pkt(("a"):rep(64) .. " " .. ("0"):rep(64) .. " refs/heads/x\0object-format=sha256") .. "0000")
    assert(long.commands[1].kind == "delete" and long.has["object-format"] == "sha256")
    assert(#pktline.parse("0000").commands == 0)
    local odd = pktline.parse(pkt(zero .. " " .. one .. " refs/heads/x\0  a=b=c =d\n e= f  ") .. "0000").has
    assert(odd.a == "b=c" and odd[""] == "d" and odd.e == "" and odd.f == true and #pktline.parse(pkt(zero .. " " .. one .. " r\0") .. "0000").commands == 1)
    local many = pktline.parse(pkt(zero .. " " .. one .. " refs/heads/x\0" .. ("x "):rep(30000)) .. "0000")
    assert(many.has.x == true and not next(many.has, "x"))
  end,

  ["of every beginning there is more to read"] = function()
    for n = 0, #whole - 1 do
      local push, why = pktline.parse(whole:sub(1, n))
      assert(push == nil and why == nil, n)
    end
  end,

  ["what servers may read in different ways is refused"] = function()
    local good = pkt(one .. " " .. two .. " refs/heads/x\0 report-status")
    for _, bad in ipairs { "0001", "0002", "0003", "0004", "zzzz", "-001", pkt "hello", pkt "push-cert\0x", pkt(one .. " " .. two .. " "),
      pkt(one .. " " .. two .. " refs/heads/a b"), pkt(one .. "  " .. two .. " refs/heads/y"), pkt(one:sub(2) .. " " .. two .. " refs/heads/y"),
      pkt(one .. " " .. two .. ("0"):rep(24) .. " refs/heads/y"), pkt(one .. " " .. two .. " refs/heads/y\0more"), pkt(one .. " " .. two .. " refs/\1"),
      pkt(one .. " " .. two .. " refs/heads/y\n\n"), pkt "shallow x" } do
      refused(good .. bad .. "0000PACK")
    end
  end,

  ["a refusal is a report that git reads, in its side-band where it asked for one"] = function()
    local push = pktline.parse(whole)
    local text = pktline.refusal(push, "no", "ask me")
    assert(text:sub(1, 12) == pkt "\2ask me\n" and text:sub(-4) == "0000")
    local inner = text:sub(13, -5)
    assert(tonumber(inner:sub(1, 4), 16) == #inner and inner:sub(5, 5) == "\1")
    assert(inner:sub(6) == pkt "unpack ok\n" .. pkt "ng refs/heads/new no\n" .. pkt "ng refs/tags/v1 no\n" .. pkt "ng refs/heads/old no\n" .. "0000")
    assert(pktline.refusal(pktline.parse(pkt(one .. " " .. two .. " refs/heads/x") .. "0000"), "no") == nil)
    local many = { pkt(one .. " " .. two .. " refs/heads/x0\0report-status side-band-64k") }
    for i = 1, 2000 do many[#many + 1] = pkt(one .. " " .. two .. " refs/heads/x" .. i) end
    text = pktline.refusal(pktline.parse(table.concat(many) .. "0000"), ("y"):rep(400))
    local at, got = 1, {}
    while text:sub(at, at + 3) ~= "0000" do
      local n = tonumber(text:sub(at, at + 3), 16)
      assert(n <= 65520)
      got[#got + 1], at = text:sub(at + 5, at + n - 1), at + n
    end
    assert(at == #text - 3 and table.concat(got):find("ng refs/heads/x2000 y", 1, true))
  end,

  ["random bytes are read or refused, and never raise"] = function()
    math.randomseed(7)
    for _ = 1, 20000 do
      local at = math.random(#whole)
      local text = whole:sub(1, at - 1) .. string.char(math.random(0, 255)) .. whole:sub(at + math.random(0, 2))
      local push, why = pktline.parse(text)
      assert(push == nil or type(push.commands) == "table")
      assert(why == nil or type(why) == "string")
    end
  end,
}
