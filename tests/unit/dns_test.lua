-- lua/dns.lua: questions as RFC 1035 has them, and what is none.
local dns = require "dns"
local A, AAAA, ANY = 1, 28, 255

local function is(got, want, what)
  if got ~= want then error(("%s: got %s, wanted %s"):format(what or "?", tostring(got), tostring(want)), 2) end
end

local function name(text) return (text:gsub("([^.]*)%.?", function(l) return l ~= "" and (">s1"):pack(l) or "" end)) .. "\0" end
local function ask(text, kind, more)
  more = more or {}
  return (">I2I2I2I2I2I2"):pack(0x1234, more.flags or 0x0100, more.questions or 1, more.answers or 0, more.authority or 0, more.extra or 0)
    .. (more.name or name(text)) .. (">I2I2"):pack(kind or A, more.class or 1) .. (more.rest or "")
end

local asked
local function look(text)
  asked = text
  if text == "full.test" then return nil, true end
  return text == "api.test" and 0xC6120001 or nil
end

-- -> code, number of answers, the answer
local function answer(message)
  local text = dns.answer(message, look)
  if not text then return nil end
  local id, flags, questions, answers, authority, extra = (">I2I2I2I2I2I2"):unpack(text)
  is(id, (">I2"):unpack(message))
  is(flags & 0x8000, 0x8000)
  is(authority, 0)
  assert(#text <= 512 and questions <= 1 and answers <= 1 and extra <= 1)
  return flags & 15, answers, text
end

local OPT = "\0" .. (">I2I2I4I2"):pack(41, 4096, 0, 0)

return {
  ["a name that is there has its address, and nothing else"] = function()
    local code, n, text = answer(ask("api.test"))
    is(code, 0)
    is(n, 1)
    is(text:sub(-16), (">I2I2I2I4I2I4"):pack(0xC00C, A, 1, 60, 4, 0xC6120001))
    is(text:byte(3) & 1, 1, "RD comes back")
    for _, kind in ipairs { AAAA, 15, 16, 65, 6, 2, 33 } do is(answer(ask("api.test", kind)), 0) end
    for _, kind in ipairs { AAAA, 15, 16, 65, 6, 2, 33 } do is(select(2, answer(ask("api.test", kind))), 0) end
    is(select(2, answer(ask("api.test", ANY))), 1)
    is(answer(ask("API.Test")), 0)
    is(asked, "api.test")
    assert(select(3, answer(ask("API.Test"))):find(name "API.Test", 1, true), "the question comes back as it was (0x20)")
  end,
  ["other names do not exist, and for one too many there is no room"] = function()
    for _, kind in ipairs { A, AAAA, ANY, 16 } do is(answer(ask("other.test", kind)), 3) end
    is(answer(ask("full.test")), 2)
    is(answer(ask("", A, { name = "\0" })), 3)
    is(answer(ask("", A, { name = "\8api.test\0" })), 3, "a dot within a label separates nothing")
    is(asked, "api\0test")
  end,
  ["what is no question of ours is refused: classes, transfers, updates, several questions"] = function()
    is(answer(ask("api.test", A, { class = 3 })), 5)
    is(answer(ask("api.test", 252)), 5)
    is(answer(ask("api.test", 251)), 5)
    is(answer(ask("api.test", 41)), 1)
    for opcode = 1, 15 do is(answer(ask("api.test", A, { flags = opcode << 11 })), 4) end
    is(answer(ask("api.test", A, { questions = 0 })), 1)
    is(answer(ask("api.test", A, { questions = 2 })), 1)
    is(answer(ask("api.test", A, { answers = 1 })), 1)
    is(answer(ask("api.test", A, { authority = 1 })), 1)
    is(answer(ask("api.test", A, { flags = 0x0200 })), 1, "cut off (TC)")
    is(answer(ask("api.test", A, { flags = 0x8100 })), nil, "an answer is not answered: two servers would go on for ever")
  end,
  ["EDNS: its record is answered by one, another version by BADVERS, two by FORMERR"] = function()
    local code, n, text = answer(ask("api.test", A, { extra = 1, rest = OPT }))
    is(code, 0)
    is(n, 1)
    is(text:sub(-11), "\0" .. (">I2I2I4I2"):pack(41, 1232, 0, 0))
    code, _, text = answer(ask("api.test", A, { extra = 1, rest = "\0" .. (">I2I2I4I2"):pack(41, 4096, 1 << 16, 0) }))
    is(code, 0)
    is(text:byte(-6), 1, "the upper bits of BADVERS (16)")
    is(answer(ask("api.test", A, { extra = 2, rest = OPT .. OPT })), 1)
    is(answer(ask("api.test", A, { extra = 1, rest = OPT:sub(1, -2) })), 1)
    is(answer(ask("api.test", A, { extra = 1, rest = "\0" .. (">I2I2I4s2"):pack(41, 4096, 0, ("c"):rep(40)) })), 0, "options are skipped")
    is(answer(ask("api.test", A, { extra = 9, rest = OPT:rep(9) })), 1)
    is(answer(ask("api.test", A, { extra = 2, rest = "\xc0\x0c" .. (">I2I2I4I2"):pack(250, 255, 0, 0) .. OPT })), 0, "a pointer in a record's name")
  end,
  ["names that are malformed: too long, pointers, cut off, reserved bits"] = function()
    for _, bad in ipairs { "\xc0\x0c", "\3api\xc0\x0c", "\x40a\0", "\x80a\0", "\64" .. ("a"):rep(64) .. "\0", (("\63" .. ("a"):rep(63)):rep(4)) .. "\0" } do
      is(answer(ask("", A, { name = bad })), 1, bad)
    end
    is(answer(ask("", A, { name = ("\63" .. ("a"):rep(63)):rep(3) .. "\61" .. ("a"):rep(61) .. "\0" })), 3, "255 bytes are allowed")
  end,
  ["no part of a question, and none with a byte changed, is answered with more than there is"] = function()
    for _, good in ipairs { ask("api.test"), ask("api.test", A, { extra = 1, rest = OPT }), ask("x.full.test", AAAA) } do
      for n = 0, #good do answer(good:sub(1, n)) end
      is(answer(good:sub(1, 11)), nil)
      for at = 1, #good do
        for byte = 0, 255 do answer(good:sub(1, at - 1) .. string.char(byte) .. good:sub(at + 1)) end
      end
    end
  end,
}
