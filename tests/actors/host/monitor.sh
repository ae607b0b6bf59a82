# Plays monitor and guest: monitor.sh RUN-DIRECTORY CONSOLE. What to play is the first "arg" of the config drive.
run=$1
console=$2
field() { tail -c +17 "$run/config" | tr '\0' '\n' | sed -n "s/^$1=//p" | head -1; }
nonce=$(field nonce)
say() { echo "[zeitwork $nonce] $*" >>"$console"; }
play=$(field arg)
case $play in
/unborn) echo "cannot allocate memory" >&2; exit 1 ;;
/refuse) touch "$run/refuse" ;;
/never-up) exec sleep 600 ;;
# Before it is up: then its time to start begins, and passes as soon as the host has counted it.
/stuck) echo "Waiting for the end of time" >>"$console" ;;
esac
echo "[zeitwork -] booted kernel=shell" >>"$console"
touch "$run/up"
case $play in
/slow) while [ ! -e "$run/go" ]; do sleep 0.02; done ;;
/stuck) exec sleep 600 ;;
/bad-guest) say 'error stage=exec message="command not found: /bad-guest"'; say halting; exit 0 ;;
esac
say mounted
say started pid=2
echo "hello from the app" >>"$console"
case $play in
/short) echo "no database" >>"$console"; sleep 0.1; say exited status=7; say halting; exit 0 ;;
/panic) echo "[    1.0] Kernel panic - not syncing: Attempted to kill init" >>"$console"; exit 0 ;;
/deaf) exec sleep 600 ;;
# Much more than is kept, faster than it is looked at; then it goes on as it should.
/flood) head -c 48000000 /dev/zero | tr '\0' x >>"$console"; touch "$run/flooded"
    while [ ! -e "$run/stop0" ]; do echo "still here" >>"$console"; sleep 0.02; done ;;
/keyboard) while [ ! -e "$run/stop1" ]; do sleep 0.02; done ;;
*) while [ ! -e "$run/stop0" ]; do sleep 0.02; done ;;
esac
say stopping signal=15
say exited signal=15
say halting
