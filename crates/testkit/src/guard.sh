# Reads what it has to end from its standard input, and ends it when that closes: the process that wrote is gone then,
# by whatever end. $1 is the folder to remove afterwards.
trap '' INT TERM HUP QUIT

watched=' '
while read -r verb pid; do
    case $verb in
        watch) watched="$watched$pid " ;;
        forget) watched="${watched%% $pid *} ${watched#* $pid }" ;;
    esac
done

signal() {
    for pid in $watched; do
        kill -s "$1" -- "-$pid" 2>/dev/null && alive=yes
    done
}

# Five seconds to end in peace. Each is the leader of a process group.
signal TERM
tries=0
alive=yes
while [ "$alive" = yes ] && [ "$tries" -lt 50 ]; do
    sleep 0.1
    tries=$((tries + 1))
    alive=no
    signal 0
done
signal KILL

rm -rf -- "$1"
